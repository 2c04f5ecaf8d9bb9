/** Columns of any name become examples, once the person says what they are. */

import { expect, test } from './studio.js';

const CSV = 'frage,antwort,quelle\nHi,Ahoy!,a\nHello,"Ahoy, matey!",b\n<b>Hey</b>,Ahoy!,c\n';

test('a table whose columns say nothing is asked about, and read', async ({ studio, page }) => {
  await studio.open();
  await studio.loadModel();
  await page.setInputFiles('#data-file', { name: 'table.csv', mimeType: 'text/csv', buffer: Buffer.from(CSV) });
  await expect(studio.get('#mapping')).toBeVisible();
  await expect(studio.get('#mapping-columns li')).toHaveText(['{frage}', '{antwort}', '{quelle}']);
  await expect(studio.get('#mapping-preview li').nth(1)).toContainText('Ahoy, matey!');
  await page.fill('#mapping-prompt', 'Say it: {frage}');
  await expect(studio.get('#mapping-preview li').nth(2)).toContainText('Say it: <b>Hey</b>');
  await page.getByRole('button', { name: 'Use these columns' }).click();
  await expect(studio.get('#data-ready')).toBeVisible();
  await studio.unfold();
  await expect(studio.get('#data-facts')).toContainText('3');
  await expect(studio.get('#data-preview')).toContainText('Say it: Hi');
  await expect(studio.get('#data-preview mark').first()).toContainText('Ahoy!');
});
