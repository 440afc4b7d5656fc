#!/usr/bin/env node
// How quick the console's pages are, in Debian's Chromium with the console's mock server: the topology of 1,000 services and
// 5,000 edges (time to lay out, frames while panning), the first page's paint and size. Needs `npm ci` in ui/.
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { gzipSync } = require('node:zlib');
const { openPage, settle, startBrowser, startMock } = require('../ui/tests/harness.cjs');

const quantile = (sorted, p) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))];
const say = (what, figure) => console.log(`${what.padEnd(58)} ${figure}`);

async function firstPage(browser) {
  const mock = await startMock('demo');
  const { page, close } = await openPage(browser, mock.url);
  await page.goto(mock.url);
  await settle(page);
  await page.waitForSelector('.chart canvas');
  const { names, paint } = await page.evaluate(() => ({
    names: performance.getEntriesByType('resource').filter((r) => r.name.includes('/assets/')).map((r) => new URL(r.name).pathname),
    paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
  }));
  const size = names.reduce((sum, name) => sum + gzipSync(readFileSync(join(__dirname, '../ui/dist', name))).length, 0);
  say('first page: first contentful paint', `${paint.toFixed(0)} ms`);
  say(`first page: scripts and styles, gzip (${names.length} files)`, `${(size / 1024).toFixed(0)} KiB`);
  await close();
  mock.stop();
}

/** Frame times while the pointer drags for two seconds. */
async function pan(page) {
  const box = await page.locator('.gcanvas').boundingBox();
  await page.evaluate(() => {
    window.frames = [];
    let last = performance.now();
    const tick = (now) => { window.frames.push(now - last); last = now; window.ticking = requestAnimationFrame(tick); };
    window.ticking = requestAnimationFrame(tick);
  });
  await page.mouse.move(box.x + 200, box.y + 12);
  await page.mouse.down();
  const start = Date.now();
  for (let i = 0; Date.now() - start < 2000; i += 1) {
    // There and back, as a hand does.
    const way = 1 - Math.abs(1 - (i % 200) / 100);
    await page.mouse.move(box.x + 200 + way * 500, box.y + 12 + way * 250);
    await new Promise((done) => setTimeout(done, 8));
  }
  await page.mouse.up();
  return page.evaluate(() => { cancelAnimationFrame(window.ticking); return window.frames.slice(1).sort((a, b) => a - b); });
}

async function topology(browser) {
  const mock = await startMock('big');
  const { page, close } = await openPage(browser, mock.url);
  await page.goto(`${mock.url}/topology`);
  await page.waitForSelector('.gcanvas .mnode.folded');
  await page.waitForTimeout(1000);
  const folded = await pan(page);
  say('1,000 services folded into namespaces, panning', `median ${quantile(folded, 0.5).toFixed(1)} ms, 95th ${quantile(folded, 0.95).toFixed(1)} ms a frame`);
  const start = Date.now();
  await page.getByRole('button', { name: 'Fold namespaces' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.mnode').length === 1000);
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  say('1,000 services, 5,000 edges: laid out and painted after', `${Date.now() - start} ms`);
  await page.waitForTimeout(1000);
  const all = await pan(page);
  say('1,000 services, 5,000 edges, panning', `median ${quantile(all, 0.5).toFixed(1)} ms, 95th ${quantile(all, 0.95).toFixed(1)} ms a frame`);
  await close();
  mock.stop();
}

(async () => {
  const browser = await startBrowser();
  await firstPage(browser);
  await topology(browser);
  await browser.close();
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
