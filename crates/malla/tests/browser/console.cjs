// Does a lesson in the console as a person would: node console.cjs LESSON URL. Exits with 1 when the console does not do
// or show what it should. `gateway-address` prints where the shop is reached.
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { open } = require("./console_page.cjs");

const lessonYaml = (name) => readFileSync(join(__dirname, "../../../../demo/lessons", `${name}.yaml`), "utf8");

// Applies what the page shows: reads the difference, then waits until every proxy has it.
async function applyRule(page, differs) {
  await page.getByRole("button", { name: "Review and apply" }).click();
  await page.locator(".diff tr.add", { hasText: differs }).first().waitFor();
  await page.getByRole("button", { name: "Apply", exact: true }).click();
  await page.locator("dialog .t-ok").first().waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll("dialog [role=status]")].every((of) => of.querySelector(".t-ok")));
  const said = await page.locator("dialog [role=status]").allInnerTexts();
  for (const line of said) assert.match(line, /Active on (\d+)\/\1 proxies/, line);
  await page.getByRole("button", { name: "Done" }).click();
}

async function newForm(page, kind, name, query = "") {
  await page.goto(`${page.base}/rules`);
  await page.getByRole("button", { name: "New rule" }).click();
  await page.getByRole("menuitem", { name: kind, exact: true }).click();
  await page.waitForURL(`**/rules/new/${kind}`);
  if (query) await page.goto(`${page.base}/rules/new/${kind}?${query}`);
  await page.waitForSelector(".form");
  await page.getByLabel("Name", { exact: true }).first().fill(name);
  await page.getByLabel("Namespace", { exact: true }).fill("base");
}

async function hosts(page, host) {
  const chips = page.locator(".field", { has: page.getByText("Hosts", { exact: true }) }).first();
  for (let left = await chips.locator(".chip button").count(); left > 0; left -= 1) await chips.locator(".chip button").first().click();
  await chips.locator("input").fill(host);
  await chips.locator("input").press("Enter");
}

const route = (page, index) => page.locator(".entry").nth(index);

async function cookieRoute(page, index, cookie, version) {
  const entry = route(page, index);
  await entry.getByRole("button", { name: "Add a condition" }).click();
  await entry.getByLabel("Path", { exact: true }).fill("");
  await entry.getByRole("button", { name: "Add a header" }).click();
  await entry.getByLabel("Header", { exact: true }).fill("cookie");
  await entry.getByLabel("Value of cookie").fill(cookie);
  await entry.getByLabel("Host", { exact: true }).first().fill("order.base.svc.cluster.local");
  await entry.getByLabel("Version", { exact: true }).first().fill(version);
}

async function writeYaml(page, text) {
  await page.locator(".cm-content").click();
  await page.keyboard.press("Control+a");
  await page.keyboard.insertText(text);
  await page.getByText("Can be applied").waitFor();
}

async function remove(page, kind, name) {
  await page.goto(`${page.base}/rules`);
  await page.getByLabel("Find a rule").fill(name);
  await page.getByRole("row", { name: kind }).getByRole("link", { name, exact: true }).click();
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.waitForURL("**/rules");
}

async function doItForMe(page, id) {
  await page.goto(`${page.base}/learn/${id}`);
  await page.getByRole("button", { name: "Do it for me" }).click();
  await page.getByText("Done. The light turns green").first().waitFor();
}

// The light is the console's own measurement.
async function green(page, id) {
  await page.goto(`${page.base}/learn/${id}`);
  await page.locator(".verdict.green").waitFor({ timeout: 90_000 });
}

const scenarios = {
  "gateway-address": async (page) => {
    await page.goto(`${page.base}/gateways`);
    const address = page.locator(".panel", { hasText: "frontend-gw" }).locator("a[href^='http://']").first();
    console.log(await address.getAttribute("href"));
  },
  "q00-shop": async (page) => {
    await doItForMe(page, "q0");
    await green(page, "q0");
  },
  "q01-gateway": async (page) => {
    await newForm(page, "Gateway", "frontend-gw");
    await applyRule(page, "name: frontend-gw");
    await newForm(page, "VirtualService", "frontend-vs");
    await hosts(page, "*");
    await page.getByLabel("Gateways", { exact: true }).fill("base/frontend-gw");
    await page.getByLabel("Gateways", { exact: true }).press("Enter");
    await route(page, 0).getByLabel("Host", { exact: true }).first().fill("frontend.base.svc.cluster.local");
    await applyRule(page, "frontend.base.svc.cluster.local");
    await green(page, "q1");
  },
  "q02-order-v2": async (page) => {
    await doItForMe(page, "q2");
    await green(page, "q2");
  },
  "q03-order-by-cookie": async (page) => {
    await newForm(page, "DestinationRule", "order", "ns=base&host=order");
    await page.getByLabel("Host", { exact: true }).fill("order");
    assert.equal(await page.locator(".entry").count(), 2, "the versions that run are proposed as subsets");
    await page.getByLabel("Visible in namespaces").fill("*");
    await page.getByLabel("Visible in namespaces").press("Enter");
    await applyRule(page, "name: v2");
    await newForm(page, "VirtualService", "order-vs");
    await hosts(page, "order.base.svc.cluster.local");
    await page.getByRole("button", { name: "Add a route" }).click();
    await cookieRoute(page, 0, "vip=false", "v1");
    await cookieRoute(page, 1, "vip=true", "v2");
    await page.locator(".entryhead", { hasText: "cookie is vip=true → order v2" }).waitFor();
    await applyRule(page, "exact: vip=true");
    await green(page, "q3");
  },
  "q04-product-half": async (page) => {
    await doItForMe(page, "q4");
    await green(page, "q4");
  },
  "q05-product-all": async (page) => {
    await page.goto(`${page.base}/services/base/product`);
    await page.getByRole("link", { name: "Shift traffic" }).click();
    await page.waitForSelector(".weight");
    await page.locator(".weight input[type=number]").nth(1).fill("100");
    assert.equal(await page.locator(".weight input[type=number]").first().inputValue(), "0");
    await page.getByRole("button", { name: "Remove this destination" }).first().click();
    await applyRule(page, "weight: 100");
    await green(page, "q5");
  },
  "q06-stock-delay": async (page) => {
    await newForm(page, "VirtualService", "stock-vs", "ns=base&host=stock");
    await route(page, 0).locator("summary", { hasText: "faults" }).click();
    await page.getByLabel("Delay", { exact: true }).fill("7000ms");
    await page.getByLabel("Delayed, %").fill("100");
    await applyRule(page, "fixedDelay: 7000ms");
    await green(page, "q6");
  },
  "q07-order-timeout": async (page) => {
    await page.goto(`${page.base}/rules/VirtualService/base/order-vs?as=yaml`);
    await page.waitForSelector(".editorhost");
    await writeYaml(page, lessonYaml("q07-order-timeout"));
    await applyRule(page, "timeout: 3000ms");
    await green(page, "q7");
  },
  "delete-stock-vs": (page) => remove(page, "VirtualService", "stock-vs"),
  "q08-cart-affinity": async (page) => {
    await page.goto(`${page.base}/services/base/cart`);
    await page.locator(".panel", { hasText: "Destination rule" }).getByRole("link", { name: "New" }).click();
    await page.waitForSelector(".form");
    await page.getByLabel("Host", { exact: true }).fill("cart");
    await page.locator("summary", { hasText: "Load balancing" }).click();
    await page.getByLabel("Choose a pod by").selectOption("header");
    await page.getByLabel("Header", { exact: true }).fill("UserID");
    await applyRule(page, "httpHeaderName: UserID");
    await green(page, "q8");
  },
  "q09-client": async (page) => {
    await doItForMe(page, "q9");
    await green(page, "q9");
  },
  "q10-user-pool": async (page) => {
    await newForm(page, "DestinationRule", "user", "ns=base&host=user");
    await page.getByLabel("Host", { exact: true }).fill("user");
    await page.locator("summary", { hasText: "Connection pool" }).click();
    for (const limit of ["Waiting requests at most", "Requests at once at most", "Requests per connection"]) await page.getByLabel(limit).fill("1");
    await applyRule(page, "http1MaxPendingRequests: 1");
    await green(page, "q10");
  },
  "delete-user": (page) => remove(page, "DestinationRule", "user"),
  "q14-strict": async (page) => {
    await page.goto(`${page.base}/security`);
    await page.getByRole("button", { name: "New policy" }).click();
    await page.getByRole("menuitem", { name: "PeerAuthentication" }).click();
    await page.waitForSelector(".editorhost");
    await writeYaml(page, lessonYaml("q14-strict"));
    await applyRule(page, "mode: STRICT");
    await green(page, "q14");
  },
  "q15-deny-test": async (page) => {
    await page.goto(`${page.base}/rules`);
    await page.getByRole("button", { name: "New rule" }).click();
    await page.getByRole("menuitem", { name: "From YAML…" }).click();
    await page.waitForSelector(".editorhost");
    await writeYaml(page, lessonYaml("q15-deny-test"));
    await applyRule(page, "action: DENY");
    await green(page, "q15");
  },
};

(async () => {
  const [name, url] = process.argv.slice(2);
  const { page, complaints, close } = await open(url);
  try {
    await scenarios[name](page);
    assert.deepEqual(complaints, []);
  } catch (error) {
    if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT });
    throw error;
  } finally {
    await close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
