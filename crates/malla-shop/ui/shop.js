// The page of the demo shop. Plain DOM: every text node is set as text, never as markup.
import { words } from "/words.js";

const $ = (id) => document.getElementById(id);
const store = (key, value) => value === undefined ? sessionStorage.getItem(key) : value === null ? sessionStorage.removeItem(key) : sessionStorage.setItem(key, value);

const state = {
  language: store("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"),
  user: JSON.parse(store("user") ?? "null"),
  products: [], banner: null, lines: [], order: null, problem: null,
  mesh: new Map(), calls: 0, pending: null,
};
const t = (key) => words[state.language][key];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- calls ----

class TimeOut extends Error {}

async function call(path, options = {}) {
  state.calls += 1;
  $("spinner").hidden = false;
  try {
    const answer = await fetch(path, { ...options, credentials: "same-origin" });
    if (answer.status === 504) throw new TimeOut();
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    const data = await answer.json();
    remember(data.info ?? data.Info ?? []);
    return data;
  } finally {
    state.calls -= 1;
    $("spinner").hidden = state.calls > 0 ? false : true;
  }
}

function remember(infos) {
  for (const info of infos) {
    const dash = info.Service.indexOf("-");
    const key = dash < 0 ? info.Service : info.Service.slice(0, dash);
    state.mesh.set(key, { region: info.Region, version: dash < 0 ? "" : info.Service.slice(dash + 1), pod: info.Pod });
  }
  drawMesh();
}

function forget(...services) {
  services.forEach((service) => state.mesh.delete(service));
  drawMesh();
}

const asUser = () => ({ UserID: String(state.user?.UserID ?? "") });

async function loadProducts() {
  try {
    const data = await call("/product");
    state.products = data.product;
    state.banner = data.url.startsWith("/") ? data.url : null;
    state.problem = null;
  } catch (error) {
    state.problem = problem(error);
  }
  draw();
}

async function loadCart() {
  if (!state.user) return;
  try {
    state.lines = (await call("/list", { headers: asUser() })).Products;
  } catch (error) {
    state.lines = [];
    state.problem = problem(error);
  }
  drawCart();
}

async function put(pid, num) {
  if (!state.user) {
    state.pending = () => put(pid, num);
    return showLogin();
  }
  try {
    state.lines = (await call("/cart", { headers: { ...asUser(), Pid: String(pid), Num: String(num) } })).Products;
    showCart(true);
  } catch (error) {
    state.problem = problem(error);
    draw();
  }
}

async function checkout() {
  if (state.lines.length === 0) return;
  showCart(false);
  location.hash = "#/checkout";
  const price = (pid) => state.products.find((product) => product.pid === pid)?.price ?? 0;
  const Products = state.lines.filter((line) => line.Num > 0).map((line) => ({ Pid: line.Pid, Num: line.Num, Price: price(line.Pid) }));
  state.order = null;
  state.problem = null;
  draw();
  try {
    state.order = await call("/order", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ Products }) });
  } catch {
    // As users of the original know it: whatever went wrong, it says time-out.
    state.problem = "timeout";
  }
  draw();
  if (state.order?.Success) {
    try {
      await call("/clear", { headers: asUser() });
      state.lines = [];
      drawCart();
    } catch {
      // The cart keeps its things; the order stands.
    }
  }
}

async function login(name) {
  const user = await call("/user", { headers: { UserID: name } });
  if (!user.Name) return false;
  state.user = { UserID: user.UserID, Name: user.Name, Vip: user.Vip };
  store("user", JSON.stringify(state.user));
  return true;
}

const problem = (error) => error instanceof TimeOut ? "timeout" : "failed";

// ---- drawing ----

function draw() {
  document.documentElement.lang = state.language;
  document.title = t("brand");
  document.querySelectorAll("[data-t]").forEach((node) => { node.textContent = t(node.dataset.t); });
  document.querySelectorAll("[data-label]").forEach((node) => node.setAttribute("aria-label", t(node.dataset.label)));
  $("account").textContent = state.user ? `${state.user.Name}${state.user.Vip ? ` · ${t("vip")}` : ""} · ${t("logout")}` : t("login");
  $("page").replaceChildren(...(location.hash === "#/checkout" ? checkoutPage() : productPage()));
  drawCart();
  drawMesh();
}

function productPage() {
  const page = [];
  if (state.problem) page.push(element("p", { class: "error", role: "alert" }, t(state.problem)));
  if (state.banner) {
    const clock = [["02", "days"], ["10", "hours"], ["34", "minutes"], ["60", "seconds"]];
    page.push(element("section", { class: "banner", id: "banner" },
      element("img", { src: state.banner, alt: "" }),
      element("div", {}, element("ul", {}, ...clock.map(([n, unit]) => element("li", {}, element("b", {}, n), t(unit)))),
        element("h2", {}, t("hotDeal")), element("p", {}, t("off")))));
  }
  page.push(element("ul", { class: "goods" }, ...state.products.map((product) =>
    element("li", {}, element("img", { src: product.url.startsWith("/") ? product.url : "/art/logo.svg", alt: "" }),
      element("h3", {}, product.name), element("p", { class: "price" }, `$${product.price}`),
      element("button", { type: "button", class: "primary", "data-pid": product.pid, onclick: () => put(product.pid, 1) }, t("addToCart"))))));
  return page;
}

function checkoutPage() {
  const page = [element("h1", {}, t("yourOrder"))];
  if (state.problem) return [...page, element("p", { class: "error", role: "alert", id: "order-problem" }, t(state.problem))];
  const order = state.order;
  if (!order) return page;
  if (!order.Success) return [...page, element("p", { class: "error", role: "alert", id: "order-problem" }, t("outOfStock"))];
  const name = (pid) => state.products.find((product) => product.pid === pid)?.name ?? pid;
  const row = (label, value, id) => element("tr", { id, class: id === "shipping" && order.Point > 0 ? "struck" : null },
    element("th", { scope: "row" }, label), element("td", {}, `$${value}`));
  page.push(element("table", { class: "order" },
    element("tbody", {}, ...order.Products.map((line) => row(`${line.Num} × ${name(line.Pid)}`, line.Price * line.Num, null)),
      row(t("subtotal"), order.Subtotal, "subtotal"), row(t("shipping"), order.Shopping, "shipping"), row(t("total"), order.Total, "total"))));
  page.push(element("p", { class: "good", role: "status", id: "order-done" }, t("thanks")));
  return page;
}

function drawCart() {
  const lines = state.lines.filter((line) => line.Num > 0);
  const product = (pid) => state.products.find((p) => p.pid === pid);
  const count = lines.reduce((sum, line) => sum + line.Num, 0);
  $("cart-count").textContent = count;
  $("cart-count").hidden = count === 0;
  $("cart-empty").hidden = lines.length > 0;
  $("checkout").disabled = lines.length === 0;
  $("cart-lines").replaceChildren(...lines.map((line) => {
    const short = line.Num > line.Stock;
    return element("li", { "data-pid": line.Pid, class: short ? "storeWarn" : null },
      element("img", { src: `/art/${line.Pid}.svg`, alt: "" }),
      element("div", {}, element("h3", {}, product(line.Pid)?.name ?? `#${line.Pid}`),
        element("p", { class: "price" }, `${line.Num} × $${product(line.Pid)?.price ?? 0}`),
        short ? element("p", { class: "error" }, t("warnStock").replace("{n}", line.Stock)) : ""),
      element("button", { type: "button", "aria-label": t("less"), onclick: () => put(line.Pid, line.Num - 1) }, "−"),
      element("button", { type: "button", "aria-label": t("more"), onclick: () => put(line.Pid, line.Num + 1) }, "+"));
  }));
}

function drawMesh() {
  const rows = [...state.mesh].sort(([a], [b]) => a.localeCompare(b));
  $("mesh-rows").replaceChildren(...rows.map(([service, at]) => element("tr", { "data-service": service },
    ...[service, at.region, at.version, at.pod].map((text) => element("td", {}, text ?? "")))));
}

function showCart(open) {
  $("cart").hidden = !open;
  $("mask").hidden = !open;
  drawCart();
  if (open) $("close-cart").focus();
}

function showLogin() {
  $("login-error").textContent = "";
  $("user-name").value = "";
  $("login").showModal();
}

// ---- what the user does ----

$("language").onclick = () => { state.language = state.language === "en" ? "zh" : "en"; store("language", state.language); draw(); };
$("account").onclick = () => {
  if (!state.user) return showLogin();
  state.user = null;
  store("user", null);
  state.lines = [];
  forget("user", "cart", "stock");
  draw();
};
$("open-cart").onclick = async () => {
  if (!state.user) {
    state.pending = async () => { await loadCart(); showCart(true); };
    return showLogin();
  }
  await loadCart();
  showCart(true);
};
$("close-cart").onclick = $("mask").onclick = () => showCart(false);
$("checkout").onclick = checkout;
$("cancel-login").onclick = () => { state.pending = null; $("login").close(); };
$("login-form").onsubmit = async (event) => {
  event.preventDefault();
  try {
    if (!(await login($("user-name").value.trim()))) return void ($("login-error").textContent = t("loginFailed"));
  } catch (error) {
    return void ($("login-error").textContent = t(problem(error)));
  }
  $("login").close();
  draw();
  const next = state.pending;
  state.pending = null;
  if (next) await next(); else await loadCart();
};
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("cart").hidden) showCart(false); });

// The round button opens the window and can be dragged; the window stays where the button is.
const toggle = $("mesh-toggle");
const floating = { x: 10, y: 10, from: null, moved: false };
const place = () => {
  toggle.style.setProperty("left", `${floating.x}px`);
  toggle.style.setProperty("bottom", `${floating.y}px`);
  $("mesh").style.setProperty("left", `${floating.x}px`);
  $("mesh").style.setProperty("bottom", `${floating.y}px`);
};
toggle.onpointerdown = (event) => {
  floating.from = { x: event.clientX - floating.x, y: event.clientY + floating.y };
  floating.moved = false;
  toggle.setPointerCapture(event.pointerId);
};
toggle.onpointermove = (event) => {
  if (!floating.from) return;
  const x = Math.max(0, Math.min(innerWidth - 48, event.clientX - floating.from.x));
  const y = Math.max(0, Math.min(innerHeight - 48, floating.from.y - event.clientY));
  floating.moved ||= Math.abs(x - floating.x) + Math.abs(y - floating.y) > 3;
  floating.x = x;
  floating.y = y;
  place();
};
toggle.onpointerup = () => { floating.from = null; };
toggle.onclick = () => {
  if (floating.moved) return void (floating.moved = false);
  showMesh($("mesh").hidden);
};
const showMesh = (open) => { $("mesh").hidden = !open; toggle.hidden = open; };
$("close-mesh").onclick = () => showMesh(false);

addEventListener("hashchange", () => {
  if (!["#/productList", "#/checkout"].includes(location.hash)) location.hash = "#/productList";
  else if (location.hash === "#/productList") { forget("order"); state.problem = null; state.order = null; loadProducts(); }
  else { forget("product"); draw(); }
});

place();
draw();
if (!["#/productList", "#/checkout"].includes(location.hash)) location.replace("#/productList");
await loadProducts();
await loadCart();
