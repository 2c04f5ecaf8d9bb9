/** The page: sections over one state, and an engine that starts at once. */

import { App } from './app.js';
import { compareStep } from './compare-step.js';
import { dataStep } from './data-step.js';
import { ignoreStrayDrops } from './drop.js';
import { engineNotice } from './engine-notice.js';
import { keepStep } from './keep-step.js';
import { modelStep } from './model-step.js';
import { profilePanel } from './profile-panel.js';
import { Settings } from './settings.js';
import { trainStep } from './train-step.js';

const settings = new Settings();
const app = new App(() => settings.dataset);
ignoreStrayDrops();
engineNotice(app);
modelStep(app);
dataStep(app);
trainStep(app, settings);
profilePanel(app, settings);
compareStep(app);
keepStep(app);
void app.start();
