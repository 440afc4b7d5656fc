// A page of the console in Debian's Chromium, that keeps a list of everything a browser complains about.
const { chromium } = require("playwright-core");

const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

async function open(url, { lang = "en", theme = "light", width = 1280, height = 900 } = {}) {
  const base = url.replace(/\/$/, "");
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: quiet });
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, locale: lang === "zh" ? "zh-CN" : "en-US" });
  const complaints = [];
  const page = await context.newPage();
  page.base = base;
  page.setDefaultTimeout(60_000);
  // Errors of the Content-Security-Policy and of scripts both end up here.
  page.on("console", (said) => { if (["error", "warning"].includes(said.type())) complaints.push(`${said.type()}: ${said.text()}`); });
  page.on("pageerror", (error) => complaints.push(`exception: ${error.message}`));
  page.on("request", (request) => { if (!request.url().startsWith(base) && !request.url().startsWith("blob:")) complaints.push(`outside request: ${request.url()}`); });
  const set = async (next) => {
    await page.evaluate(([l, t]) => { localStorage.setItem("malla.lang", l); localStorage.setItem("malla.theme", t); }, [next.lang, next.theme]);
    await page.setViewportSize({ width: next.width, height: next.height });
    await page.emulateMedia({ colorScheme: next.theme });
  };
  await context.addInitScript(([l]) => { if (!localStorage.getItem("malla.lang")) localStorage.setItem("malla.lang", l); }, [lang]);
  return { page, complaints, set, close: () => browser.close() };
}

// Waits until a page has its data: a heading, and no skeleton.
async function settled(page) {
  await page.waitForSelector("main h1");
  await page.waitForFunction(() => !document.querySelector("main .skel"));
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

module.exports = { open, settled };
