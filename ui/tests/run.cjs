// Browser tests against the mock, with Debian's Chromium. Needs an up-to-date `dist` (npm run build).
//   node tests/run.cjs [part of a test's name]
const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const { openPage, pages, settle, startBrowser, startMock } = require('./harness.cjs');

const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const tests = [];
const test = (name, run) => tests.push({ name, run });

async function seriousProblems(page) {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const result = await window.axe.run(document, { resultTypes: ['violations'] });
    return result.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.target.join(' ')} ${n.any[0]?.message ?? ''}`).join(' | ')}`);
  });
}
/** How far the page is wider than its window, and who is to blame. */
const overflow = (page) => page.evaluate(() => {
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  return wide > 0 ? `${wide}px: ${[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest('.tablewrap, .diff, .gcanvas, .loglist, .tabs, .jtree')).slice(0, 3).map((e) => `${e.tagName}.${e.className}`).join(', ')}` : '';
});
const editorText = (page) => page.evaluate(() => document.querySelector('.editorhost').shadowRoot.querySelector('.cm-content').innerText);

for (const lang of ['en', 'zh']) for (const theme of ['light', 'dark']) for (const width of [1280, 390]) {
  test(`pages ${lang} ${theme} ${width}: no complaints, no serious axe problem, no overflow`, async ({ browser, demo }) => {
    const { page, complaints, close } = await openPage(browser, demo.url, { lang, theme, width, height: width === 390 ? 844 : 900 });
    const trace = (await (await fetch(`${demo.url}/jaeger/api/traces?service=order.base&limit=1`)).json()).data[0].traceID;
    const proxy = (await (await fetch(`${demo.url}/api/malla/v1/proxies`)).json())[1];
    const wrong = [];
    for (const [name, path] of [...pages, ['trace', `/traces/${trace}`], ['proxy', `/proxies/${proxy.namespace}/${proxy.pod}`], ['panel', '/topology?sel=service%2Fbase%2Forder']]) {
      await page.goto(demo.url + path);
      await settle(page);
      if (name === 'panel') await page.waitForSelector('.gpanel .chart canvas');
      for (const problem of await seriousProblems(page)) wrong.push(`${name}: ${problem}`);
      const wide = await overflow(page);
      if (wide) wrong.push(`${name}: wider than the window by ${wide}`);
      const html = await page.evaluate(() => document.documentElement.lang);
      assert.equal(html, lang === 'zh' ? 'zh-CN' : 'en');
    }
    await close();
    assert.deepEqual([...wrong, ...complaints], []);
  });
}

test('hostile names are text, and break nothing', async ({ browser }) => {
  const mock = await startMock('hostile');
  const { page, complaints, close } = await openPage(browser, mock.url);
  const { evil, evil2 } = (await import('../mock/world.mjs')).makeWorld('hostile');
  const trace = (await (await fetch(`${mock.url}/jaeger/api/traces?service=order.base&limit=1`)).json()).data[0].traceID;
  const e = encodeURIComponent;
  const all = ['/', '/topology', '/topology?view=version', `/services`, `/services/${e(evil2)}/${e(evil)}`, '/rules', `/rules/VirtualService/${e(evil2)}/${e(evil)}`, `/rules/VirtualService/${e(evil2)}/${e(evil)}?as=yaml`, '/rules/history?change=c1', '/security', '/security?tab=identities', '/logs', `/logs?text=${e(evil)}`, '/proxies', `/traces/${trace}`, `/topology?sel=${e(`service/${evil2}/${evil}`)}`];
  for (const path of all) {
    await page.goto(mock.url + path);
    await settle(page);
    assert.equal(await page.evaluate(() => window.__xss), undefined, path);
    assert.equal(await page.evaluate(() => document.querySelectorAll('img, main script, iframe').length), 0, path);
    assert.equal(await page.evaluate(() => [...document.querySelectorAll('a')].filter((a) => /^javascript:/i.test(a.href)).length), 0, path);
  }
  await page.goto(`${mock.url}/services`);
  await settle(page);
  assert.ok((await page.textContent('main')).includes(evil), 'the name is shown as it is');
  await close();
  mock.stop();
  assert.deepEqual(complaints, []);
});

test('an empty mesh says the next step on every page', async ({ browser }) => {
  const mock = await startMock('empty');
  const { page, complaints, close } = await openPage(browser, mock.url);
  for (const path of ['/', '/topology', '/services', '/rules', '/gateways', '/security', '/security?tab=policies', '/proxies', '/logs', '/rules/history']) {
    await page.goto(mock.url + path);
    await settle(page);
    assert.ok(await page.locator('main .empty').first().isVisible(), path);
  }
  for (const path of ['/learn', '/traces']) {
    await page.goto(mock.url + path);
    await page.waitForSelector('main .empty');
  }
  await close();
  mock.stop();
  assert.deepEqual(complaints, []);
});

test('a lost server: the page keeps its data, says so, and recovers', async ({ browser }) => {
  const mock = await startMock();
  const { page, close } = await openPage(browser, mock.url);
  await page.goto(`${mock.url}/services`);
  await settle(page);
  await page.route('**/api/**', (route) => route.abort());
  await page.getByText('The newest data could not be fetched').waitFor({ timeout: 30_000 });
  assert.ok(await page.getByRole('link', { name: 'order', exact: true }).isVisible());
  await page.unroute('**/api/**');
  await page.getByText('The newest data could not be fetched').waitFor({ state: 'detached', timeout: 30_000 });
  await close();
  mock.stop();
});

test('topology of 1,000 services and 5,000 edges lays out in time and pans', async ({ browser }) => {
  const mock = await startMock('big');
  const { page, complaints, close } = await openPage(browser, mock.url);
  await page.goto(`${mock.url}/topology`);
  await page.waitForSelector('.gcanvas .mnode.folded');
  const folded = await page.locator('.mnode').count();
  assert.ok(folded < 40, `folded into ${folded}`);
  const start = Date.now();
  await page.getByRole('button', { name: 'Fold namespaces' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.mnode').length === 1000, null, { timeout: 10_000 });
  const took = Date.now() - start;
  const box = await page.locator('.gcanvas').boundingBox();
  await page.evaluate(() => {
    window.__frames = [];
    let last = performance.now();
    const tick = (now) => { window.__frames.push(now - last); last = now; window.__raf = requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
  });
  await page.mouse.move(box.x + 300, box.y + 12);
  await page.mouse.down();
  for (let i = 0; i < 40; i += 1) await page.mouse.move(box.x + 300 + i * 8, box.y + 12 + i * 4);
  await page.mouse.up();
  const frames = (await page.evaluate(() => { cancelAnimationFrame(window.__raf); return window.__frames; })).sort((a, b) => a - b);
  console.log(`    1,000 nodes on screen after ${took} ms; frame while panning: median ${frames[Math.floor(frames.length / 2)].toFixed(1)} ms, 95th ${frames[Math.floor(frames.length * 0.95)].toFixed(1)} ms`);
  assert.ok(took < 4000, `took ${took} ms`);
  await close();
  mock.stop();
  assert.deepEqual(complaints, []);
});

test('topology: keyboard reaches nodes, panel, edges; the view is a link; PNG', async ({ browser, demo }) => {
  const { page, complaints, close } = await openPage(browser, demo.url);
  await page.goto(`${demo.url}/topology?view=version&label=p99`);
  await page.waitForSelector('.mnode');
  await page.locator('.react-flow__node[aria-label*="order v2"]').focus();
  await page.keyboard.press('Enter');
  await page.locator('.gpanel h2', { hasText: 'order v2' }).waitFor();
  assert.match(page.url(), /view=version&label=p99&sel=version%2Fbase%2Forder%2Fv2/);
  await page.locator('.gpanel .peer').first().focus();
  await page.keyboard.press('Enter');
  await page.locator('.gpanel h2', { hasText: 'Connection' }).waitFor();
  await page.reload();
  await page.locator('.gpanel h2', { hasText: 'Connection' }).waitFor();
  await page.locator('.gpanel').getByRole('button', { name: 'Close' }).click();
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save as PNG' }).click()]);
  const png = readFileSync(await download.path());
  assert.equal(png.subarray(1, 4).toString(), 'PNG');
  assert.ok(png.length > 20_000);
  await page.keyboard.press('/');
  await page.keyboard.type('stock');
  await page.waitForFunction(() => document.querySelectorAll('.mnode.found').length === 1);
  assert.match(page.url(), /find=stock/);
  await close();
  assert.deepEqual(complaints, []);
});

test('a form and its YAML are two views of one text', async ({ browser, demo }) => {
  const { page, complaints, close } = await openPage(browser, demo.url, { height: 1400 });
  for (const [kind, name] of [['VirtualService', 'order-vs'], ['DestinationRule', 'user'], ['Gateway', 'frontend-gw']]) {
    const { yaml } = await (await fetch(`${demo.url}/api/malla/v1/objects/${kind}/base/${name}`)).json();
    await page.goto(`${demo.url}/rules/${kind}/base/${name}`);
    await page.waitForSelector('.form');
    await page.getByRole('radio', { name: 'YAML' }).click();
    await page.waitForSelector('.editorhost');
    await page.waitForFunction((want) => document.querySelector('.editorhost').shadowRoot.querySelector('.cm-content')?.innerText.trim() === want.trim(), yaml);
    await page.getByRole('radio', { name: 'Form' }).click();
    await page.waitForSelector('.form');
    assert.ok(await page.getByText('No changes').isVisible(), `${kind}: looking changes nothing`);
  }
  await page.goto(`${demo.url}/rules/VirtualService/base/order-vs?as=yaml`);
  await page.waitForSelector('.editorhost');
  await page.locator('.cm-content').click();
  await page.keyboard.press('Control+End');
  await page.keyboard.insertText('      corsPolicy: {maxAge: 1h} # mine\n');
  await page.getByRole('radio', { name: 'Form' }).click();
  await page.getByText('kept as they are: corsPolicy').waitFor();
  await page.locator('.entry').nth(1).locator('summary').click();
  await page.locator('.entry').nth(1).getByLabel('Timeout', { exact: true }).fill('3s');
  await page.getByRole('radio', { name: 'YAML' }).click();
  await page.waitForSelector('.editorhost');
  const text = await editorText(page);
  assert.match(text, /corsPolicy: \{\s*maxAge: 1h\s*\} # mine/);
  assert.match(text, /timeout: 3s/);
  await close();
  assert.deepEqual(complaints, []);
});

test('weights: one slider moves the other', async ({ browser, demo }) => {
  const { page, complaints, close } = await openPage(browser, demo.url, { height: 1400 });
  await page.goto(`${demo.url}/rules/VirtualService/base/product-vs`);
  await page.waitForSelector('.weight');
  const box = (i) => page.locator('.weight input[type=number]').nth(i);
  await box(0).fill('20');
  assert.equal(await box(1).inputValue(), '80');
  await page.locator('.weight input[type=range]').nth(1).focus();
  await page.keyboard.press('End');
  assert.equal(await box(0).inputValue(), '0');
  await close();
  assert.deepEqual(complaints, []);
});

test('editor: completion from the schema, errors on their lines, no apply of nonsense', async ({ browser, demo }) => {
  const { page, complaints, close } = await openPage(browser, demo.url);
  await page.goto(`${demo.url}/rules/VirtualService/base/order-vs?as=yaml`);
  await page.locator('.cm-content').click();
  await page.keyboard.press('Control+End');
  await page.keyboard.type('      time');
  await page.locator('.cm-tooltip-autocomplete li', { hasText: 'timeout' }).waitFor();
  await page.waitForTimeout(200); // CodeMirror takes no Enter for a list that has only just opened
  await page.keyboard.press('Enter');
  await page.keyboard.type('3s');
  await page.getByText('Can be applied').waitFor();
  assert.match(await editorText(page), /timeout: 3s/);
  await page.keyboard.press('Enter');
  await page.keyboard.press('Escape');
  await page.keyboard.type('fautl: {}');
  await page.keyboard.press('Escape');
  await page.locator('.marks .mark', { hasText: 'fautl' }).waitFor();
  assert.match(await page.locator('.marks .mark', { hasText: 'fautl' }).innerText(), /Line 27/);
  assert.ok(await page.locator('.cm-lintRange-error').first().isVisible());
  assert.ok(await page.getByRole('button', { name: 'Review and apply' }).isDisabled());
  await close();
  assert.deepEqual(complaints, []);
});

test('apply: difference, progress on the proxies, history, undo', async ({ browser }) => {
  const mock = await startMock();
  const { page, complaints, close } = await openPage(browser, mock.url, { height: 1200 });
  await page.goto(`${mock.url}/services/base/cart`);
  await settle(page);
  await page.getByRole('link', { name: 'New' }).nth(1).click();
  await page.waitForSelector('.form');
  await page.locator('summary', { hasText: 'Load balancing' }).click();
  await page.getByLabel('Choose a pod by').selectOption('header');
  await page.getByRole('button', { name: 'Review and apply' }).click();
  await page.locator('.diff tr.add', { hasText: 'httpHeaderName: UserID' }).waitFor();
  assert.deepEqual(await seriousProblems(page), []);
  await page.getByLabel('Why?').fill('One cart each');
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await page.getByText(/Active on 21\/21 proxies/).first().waitFor();
  await page.getByRole('button', { name: 'Done' }).click();
  await page.waitForURL('**/rules/DestinationRule/base/cart');
  await page.getByRole('tab', { name: /History/ }).click();
  await page.getByText('One cart each').waitFor();
  await page.locator('.change .link').first().click();
  assert.match(page.url(), /change=c\d+/);
  await page.getByRole('button', { name: 'Undo this change' }).click();
  await page.getByText('is as before').waitFor();
  const left = await (await fetch(`${mock.url}/api/malla/v1/objects?kind=DestinationRule`)).json();
  assert.ok(!left.some((o) => o.name === 'cart'));
  await close();
  mock.stop();
  assert.deepEqual(complaints.filter((c) => !/404/.test(c)), []);
});

test('lessons: do it for me turns the light green; take it back turns it off', async ({ browser }) => {
  const mock = await startMock();
  const { page, complaints, close } = await openPage(browser, mock.url);
  await page.goto(`${mock.url}/learn/q14`);
  await page.locator('.verdict.red').waitFor();
  await page.getByRole('button', { name: 'Do it for me' }).click();
  await page.locator('.verdict.green').waitFor();
  await page.getByRole('button', { name: 'Take it back' }).click();
  await page.locator('.verdict.red').waitFor();
  await page.getByRole('tab', { name: 'kubectl' }).click();
  assert.match(page.url(), /tab=kubectl/);
  await page.getByText('kubectl apply -f').waitFor();
  await close();
  mock.stop();
  assert.deepEqual(complaints, []);
});

test('logs: filters in the address, flags explained, the way to the trace and back, tail', async ({ browser, demo }) => {
  const { page, complaints, close } = await openPage(browser, demo.url);
  await page.goto(`${demo.url}/logs?flag=UO`);
  await page.locator('.logline').first().click();
  await page.getByText('the connection pool is full').waitFor();
  await page.goto(`${demo.url}/logs?text=%2Fstock&code=2xx`);
  await page.locator('.logline', { hasText: '/stock' }).first().click();
  await page.getByRole('link', { name: 'Show the trace' }).click();
  await page.waitForURL('**/traces/*');
  await page.locator('[role=treeitem]').first().waitFor();
  assert.ok((await page.locator('[role=treeitem]').count()) >= 4);
  await page.getByRole('link', { name: 'Logs of this trace' }).click();
  await page.locator('.logline').first().waitFor();
  await page.getByRole('radio', { name: 'Follow' }).click();
  await page.goto(`${demo.url}/logs?mode=tail`);
  await page.locator('.logline').nth(2).waitFor({ timeout: 15_000 });
  await close();
  assert.deepEqual(complaints, []);
});

test('keyboard: skip link, palette, search key, table, tabs, menus', async ({ browser, demo }) => {
  const { page, complaints, close } = await openPage(browser, demo.url);
  await page.goto(`${demo.url}/services`);
  await settle(page);
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  await page.keyboard.press('/');
  await page.keyboard.type('prod');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1);
  assert.match(page.url(), /q=prod/);
  await page.keyboard.press('Control+k');
  await page.keyboard.type('order-vs');
  await page.locator('[role=option][aria-selected=true]', { hasText: 'order-vs' }).waitFor();
  await page.keyboard.press('Enter');
  await page.waitForURL('**/rules/VirtualService/base/order-vs');
  await page.getByRole('tab', { name: 'Rule' }).focus();
  await page.keyboard.press('ArrowRight');
  assert.match(page.url(), /tab=history/);
  await page.getByRole('button', { name: 'Theme' }).focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
  const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(ring, 'solid', 'the focus is visible');
  await close();
  assert.deepEqual(complaints, []);
});

test('language and theme switch at once and are remembered', async ({ browser, demo }) => {
  const context = await browser.newContext({ colorScheme: 'dark', locale: 'zh-CN' });
  const page = await context.newPage();
  await page.goto(demo.url);
  await page.getByRole('heading', { name: '概览' }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
  await page.getByRole('button', { name: 'Switch to English' }).click();
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.reload();
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.emulateMedia({ colorScheme: 'light' });
  await page.waitForFunction(() => document.documentElement.dataset.theme === 'light');
  await context.close();
});

test('first page: small and quick', async ({ browser, demo }) => {
  const { page, complaints, close } = await openPage(browser, demo.url);
  await page.goto(demo.url);
  await settle(page);
  await page.waitForSelector('.chart canvas');
  const { names, paint } = await page.evaluate(() => ({ names: performance.getEntriesByType('resource').filter((r) => r.name.includes('/assets/')).map((r) => new URL(r.name).pathname), paint: performance.getEntriesByName('first-contentful-paint')[0].startTime }));
  const { gzipSync } = require('node:zlib');
  const size = names.reduce((sum, n) => sum + gzipSync(readFileSync(`${__dirname}/../dist${n}`)).length, 0);
  console.log(`    first page: ${names.length} files, ${(size / 1024).toFixed(0)} KiB gzip, first paint after ${paint.toFixed(0)} ms`);
  assert.ok(size < 600 * 1024);
  await close();
  assert.deepEqual(complaints, []);
});

async function main() {
  const only = process.argv[2] ?? '';
  const chosen = tests.filter((t) => t.name.includes(only));
  const demo = await startMock();
  const browser = await startBrowser();
  let failed = 0;
  for (const { name, run } of chosen) {
    const start = Date.now();
    try {
      await run({ browser, demo });
      console.log(`ok   ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}\n${String(error.stack ?? error).split('\n').slice(0, 40).join('\n')}`);
      for (const context of browser.contexts()) await context.close();
    }
  }
  await browser.close();
  demo.stop();
  console.log(`${chosen.length - failed} of ${chosen.length} passed`);
  process.exit(failed > 0 ? 1 : 0);
}
main();
