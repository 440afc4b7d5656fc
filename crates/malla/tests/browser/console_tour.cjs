// Visits every page of the console in both languages, themes and widths: node console_tour.cjs URL FOLDER. Writes a picture of
// each into FOLDER and exits with 1 on a serious axe finding, a browser's complaint, an outside request, or a page that is
// wider than its window.
const assert = require("node:assert/strict");
const { mkdirSync, readFileSync, writeFileSync } = require("node:fs");
const { join } = require("node:path");
const { open, settled } = require("./console_page.cjs");

const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

// A page, and what has to be on it before it counts as drawn.
const pages = async (base) => {
  const ask = async (path) => (await fetch(base + path)).json();
  const checkout = await ask("/jaeger/api/traces?service=istio-ingressgateway.istio-system&limit=100&lookback=1h");
  const longest = checkout.data.sort((a, b) => b.spans.length - a.spans.length)[0];
  const proxy = (await ask("/api/malla/v1/proxies")).find((p) => p.pod.startsWith("frontend"));
  return [
    ["overview", "/", ".chart canvas"],
    ["topology", "/topology", ".mnode"],
    ["topology-versions", "/topology?view=version&label=p99", ".mnode"],
    ["topology-service", "/topology?sel=service%2Fbase%2Fuser", ".gpanel .chart canvas"],
    ["services", "/services", "tbody tr"],
    ["service", "/services/base/order", "tbody tr"],
    ["service-metrics", "/services/base/order?tab=metrics", ".chart canvas"],
    ["rules", "/rules", "tbody tr"],
    ["rule-form", "/rules/VirtualService/base/order-vs", ".form"],
    ["rule-yaml", "/rules/VirtualService/base/order-vs?as=yaml", ".editorhost"],
    ["history", "/rules/history", ".change"],
    ["gateways", "/gateways", "tbody tr"],
    ["security", "/security", "tbody tr"],
    ["identities", "/security?tab=identities", "tbody tr"],
    ["traces", "/traces?service=istio-ingressgateway.istio-system", "tbody tr"],
    ["trace", `/traces/${longest?.traceID ?? "none"}`, "[role=treeitem]"],
    ["logs", "/logs", ".logline"],
    ["proxies", "/proxies", "tbody tr"],
    ["proxy", `/proxies/${proxy.namespace}/${proxy.pod}`, "[role=tab]"],
    ["learn", "/learn/q3", ".verdict"],
  ];
};

async function seriousProblems(page) {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
    const grave = violations.filter((v) => v.impact === "serious" || v.impact === "critical");
    return grave.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.target.join(" ")).join(" | ")}`);
  });
}

// Playwright writes no WebP; the browser does, at a fifth of a PNG's size.
async function picture(page, file) {
  const devtools = await page.context().newCDPSession(page);
  const { data } = await devtools.send("Page.captureScreenshot", { format: "webp", quality: 62 });
  await devtools.detach();
  writeFileSync(file, Buffer.from(data, "base64"));
}

(async () => {
  const [url, folder] = process.argv.slice(2);
  mkdirSync(folder, { recursive: true });
  const { page, complaints, set, close } = await open(url);
  const wrong = [];
  try {
    const list = await pages(page.base);
    await page.goto(page.base);
    for (const lang of ["en", "zh"]) for (const theme of ["light", "dark"]) for (const width of [1280, 390]) {
      await set({ lang, theme, width, height: width === 390 ? 844 : 900 });
      for (const [name, path, drawn] of list) {
        const what = `${name}-${lang}-${theme}-${width}`;
        await page.goto(page.base + path);
        await settled(page);
        await page.waitForSelector(`main ${drawn}`).catch(() => wrong.push(`${what}: no ${drawn}`));
        // Each theme and each width once: what axe finds does not depend on the language.
        if ((lang === "en") === (width === 1280)) for (const problem of await seriousProblems(page)) wrong.push(`${what}: ${problem}`);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        if (wide > 0) wrong.push(`${what}: ${wide} px wider than the window`);
        await picture(page, join(folder, `${what}.webp`));
      }
    }
  } finally {
    await close();
  }
  assert.deepEqual([...wrong, ...new Set(complaints)], []);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
