// Visits the shop with Chromium: node shop.cjs SCENARIO URL. Exits with 1 when the page does not show what it should.
const assert = require("node:assert/strict");
const { chromium } = require("playwright-core");

const scenarios = {
  // Log in, fill the cart, order; the floating window names every service that answered.
  "first-visit": async (page) => {
    assert.equal(await page.locator(".goods li").count(), 8);
    await login(page, "77");
    await page.getByText("Login failed! The user is not registered.").waitFor();
    await page.locator("#cancel-login").click();
    await shopAs(page, "4");
    assert.match(await page.locator("#total").innerText(), /\$210/);
    await page.locator("#mesh-toggle").click();
    const rows = await page.locator("#mesh-rows tr").allInnerTexts();
    for (const service of ["cart", "order", "stock", "user"]) assert.ok(rows.some((row) => row.startsWith(service)), `${service}: ${rows}`);
    assert.ok(rows.every((row) => row.includes("north-a")), `${rows}`);
    await page.locator("#close-mesh").click();
    await page.locator("#language").click();
    assert.equal(await page.title(), "结与网");
    const foreign = page.requests.filter((url) => new URL(url).origin !== page.shop);
    assert.deepEqual(foreign, [], "requests to the outside");
  },
  // A VIP's order is of version 2 and the shipping is struck through.
  vip: async (page) => {
    await shopAs(page, "1");
    assert.match(await page.locator("#total").innerText(), /\$200/);
    assert.equal(await page.locator("tr#shipping.struck").count(), 1);
    await page.locator("#mesh-toggle").click();
    assert.match(await page.locator('[data-service="order"]').innerText(), /v2/);
  },
  banner: async (page) => {
    assert.match(await page.locator("#banner").innerText(), /HOT DEAL THIS WEEK/);
  },
  timeout: async (page) => {
    await shopAs(page, "1", 60000);
    assert.equal(await page.locator("#order-problem").innerText(), "Time-out. The server didn't respond in time.");
  },
};

async function login(page, user) {
  await page.locator("#account").click();
  await page.locator("#user-name").fill(user);
  await page.locator("#login-form button[type=submit]").click();
}

// Without affinity the three carts forget what another one was told, so the cart shown last is what counts.
async function shopAs(page, user, timeout = 20000) {
  page.setDefaultTimeout(timeout);
  await login(page, user);
  await page.locator("#login").waitFor({ state: "hidden" });
  await page.locator("#spinner").waitFor({ state: "hidden" });
  await page.locator('.goods [data-pid="2"]').click();
  await page.locator("#cart-lines li").first().waitFor();
  await page.locator("#checkout").click();
  await page.locator("#order-done, #order-problem").waitFor();
}

(async () => {
  const [scenario, url] = process.argv.slice(2);
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  try {
    const page = await browser.newPage({ locale: "en-US" });
    page.requests = [];
    page.shop = new URL(url).origin;
    page.on("request", (request) => page.requests.push(request.url()));
    page.on("pageerror", (error) => { throw error; });
    await page.goto(url);
    await page.locator(".goods li").first().waitFor();
    await scenarios[scenario](page);
    if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT });
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
