/** The page: sections over one state, and an engine that starts at once. */

import { App } from './app.js';
import { chat } from './chat.js';
import { dataStep } from './data-step.js';
import { byId } from './dom.js';
import { ignoreStrayDrops } from './drop.js';
import { engineNotice } from './engine-notice.js';
import { glossary } from './glossary.js';
import { insidePanel } from './inside-panel.js';
import { keepStep } from './keep-step.js';
import { modelStep } from './model-step.js';
import { keepOffline } from './offline.js';
import { lockDown } from './policy.js';
import { profilePanel } from './profile-panel.js';
import { runsPanel } from './runs-panel.js';
import { Settings } from './settings.js';
import { storageNote } from './storage-note.js';
import { tabs } from './tabs.js';
import { trainStep } from './train-step.js';

lockDown();
const settings = new Settings();
const app = new App(() => settings.dataset);
ignoreStrayDrops();
engineNotice(app);
modelStep(app);
dataStep(app);
runsPanel(app, settings, trainStep(app, settings));
storageNote(app);
profilePanel(app, settings);
tabs(byId('after-tabs'));
chat(app);
insidePanel(app);
keepStep(app, settings);
glossary();
keepOffline();
void app.start();
