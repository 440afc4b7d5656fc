// What the browser tests share: a mock server of our own, a browser, and a page that reports every complaint.
const { existsSync } = require('node:fs');
const { chromium } = require('playwright-core');

const executablePath = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

async function startMock(scene = 'demo') {
  const { makeServer } = await import('../mock/server.mjs');
  const server = makeServer({ scene });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => { server.closeAllConnections(); server.close(); } };
}

async function startBrowser() {
  if (!executablePath) throw new Error('no Chromium found: install Debian\'s chromium, or set CHROMIUM');
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
}

/** A page in a language, theme and width; `complaints` fills with console errors, failed requests, requests elsewhere. */
async function openPage(browser, url, { lang = 'en', theme = 'light', width = 1280, height = 900 } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, deviceScaleFactor: 1 });
  await context.addInitScript(([l, t]) => {
    localStorage.setItem('malla.lang', l);
    localStorage.setItem('malla.theme', t);
  }, [lang, theme]);
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (m) => { if (m.type() === 'error' || m.type() === 'warning') complaints.push(`console ${m.type()}: ${m.text()}`); });
  page.on('pageerror', (e) => complaints.push(`exception: ${e.message}`));
  page.on('request', (r) => { if (!r.url().startsWith(url) && !r.url().startsWith('blob:')) complaints.push(`outside request: ${r.url()}`); });
  page.on('response', (r) => { if (r.status() >= 400) complaints.push(`${r.status()} ${r.url()}`); });
  return { page, complaints, close: () => context.close() };
}

const pages = [
  ['overview', '/'],
  ['topology', '/topology'],
  ['services', '/services'],
  ['service', '/services/base/order'],
  ['service-metrics', '/services/base/order?tab=metrics'],
  ['rules', '/rules'],
  ['rule-form', '/rules/VirtualService/base/order-vs'],
  ['rule-yaml', '/rules/VirtualService/base/order-vs?as=yaml'],
  ['rule-new', '/rules/new/DestinationRule?ns=base&host=cart'],
  ['history', '/rules/history'],
  ['gateways', '/gateways'],
  ['security', '/security'],
  ['security-identities', '/security?tab=identities'],
  ['traces', '/traces'],
  ['logs', '/logs'],
  ['logs-tail', '/logs?mode=tail'],
  ['proxies', '/proxies'],
  ['learn', '/learn/q3'],
];

/** Waits until the page has its data: no skeleton, and a heading. */
async function settle(page) {
  await page.waitForSelector('main h1', { timeout: 15_000 });
  await page.waitForFunction(() => !document.querySelector('main .skel'), null, { timeout: 15_000 });
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

module.exports = { startMock, startBrowser, openPage, settle, pages };
