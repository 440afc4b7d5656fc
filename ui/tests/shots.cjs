// Screenshots of every page in both languages, both themes and both widths.
//   node tests/shots.cjs [directory] [only-page]
const { mkdirSync } = require('node:fs');
const { openPage, pages, settle, startBrowser, startMock } = require('./harness.cjs');

async function main() {
  const dir = process.argv[2] ?? '/tmp/ui-shots';
  const only = process.argv[3];
  const quick = process.argv.includes('--quick');
  mkdirSync(dir, { recursive: true });
  const mock = await startMock();
  const browser = await startBrowser();
  const trace = await (await fetch(`${mock.url}/jaeger/api/traces?service=order.base&limit=1`)).json();
  const proxies = await (await fetch(`${mock.url}/api/malla/v1/proxies`)).json();
  const all = [...pages, ['trace', `/traces/${trace.data[0].traceID}`], ['proxy', `/proxies/${proxies[1].namespace}/${proxies[1].pod}`], ['topology-panel', '/topology?sel=service%2Fbase%2Forder'], ['topology-version', '/topology?view=version&label=p99']];
  const modes = [];
  for (const lang of ['en', 'zh']) for (const theme of ['light', 'dark']) for (const width of [1280, 390]) modes.push({ lang, theme, width });
  for (const mode of quick ? [modes[0], modes[6 + 1], modes[2]] : modes) {
    const { page, complaints, close } = await openPage(browser, mock.url, { ...mode, height: mode.width === 390 ? 844 : 900 });
    for (const [name, path] of all.filter(([n]) => !only || only.startsWith('--') || only.split(',').includes(n))) {
      await page.goto(mock.url + path);
      await settle(page).catch((e) => complaints.push(`${name}: ${e.message}`));
      if (name.startsWith('topology')) await page.waitForTimeout(1500);
      await page.waitForTimeout(700);
      await page.screenshot({ path: `${dir}/${name}-${mode.lang}-${mode.theme}-${mode.width}.png` });
    }
    if (complaints.length > 0) console.log(mode, [...new Set(complaints)].slice(0, 20));
    await close();
  }
  await browser.close();
  mock.stop();
}
main().then(() => process.exit(0), (e) => { console.error(e); process.exit(1); });
