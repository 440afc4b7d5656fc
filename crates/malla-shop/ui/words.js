// Every text of the page, in both languages; the keys are the same (shop tests compare them).
export const words = {
  en: {
    brand: "Knot & Net", otherLanguage: "中文", cart: "Cart", yourCart: "YOUR CART", footer: "A demo shop. Nothing here is for sale.",
    emptyCart: "Your cart is empty.", checkout: "CHECKOUT", login: "Log in", logout: "Log out", userName: "User name",
    loginHint: "Users 1 to 3 are VIPs, 4 and 5 are not.", loginFailed: "Login failed! The user is not registered.", cancel: "Cancel",
    loading: "Loading", meshTitle: "Mesh info", service: "Service", region: "Region", version: "Version", pod: "Pod", close: "Close",
    addToCart: "ADD TO CART", hotDeal: "HOT DEAL THIS WEEK", off: "50 % OFF", days: "days", hours: "hours", minutes: "mins", seconds: "secs",
    yourOrder: "YOUR ORDER", product: "Product", total: "TOTAL", subtotal: "Subtotal", shipping: "Shipping", thanks: "Thank you, your order is placed.",
    outOfStock: "The product is out of stock! Please reorder.", timeout: "Time-out. The server didn't respond in time.",
    failed: "The shop did not answer. Please try again.", less: "One less", more: "One more", warnStock: "only {n} left", vip: "VIP",
  },
  zh: {
    brand: "结与网", otherLanguage: "English", cart: "购物车", yourCart: "您的购物车", footer: "演示商店，商品并不出售。",
    emptyCart: "您的购物车是空的。", checkout: "结算", login: "登录", logout: "退出", userName: "用户名",
    loginHint: "用户 1 至 3 为会员，4 和 5 为普通用户。", loginFailed: "登录失败！该用户未注册。", cancel: "取消",
    loading: "加载中", meshTitle: "网格信息", service: "服务", region: "地域", version: "版本", pod: "Pod", close: "关闭",
    addToCart: "加入购物车", hotDeal: "本周热卖", off: "五折优惠", days: "天", hours: "时", minutes: "分", seconds: "秒",
    yourOrder: "您的订单", product: "商品", total: "合计", subtotal: "小计", shipping: "运费", thanks: "谢谢，您的订单已提交。",
    outOfStock: "商品库存不足！请重新下单。", timeout: "超时。服务器未及时响应。",
    failed: "商店没有响应，请重试。", less: "减一件", more: "加一件", warnStock: "仅剩 {n} 件", vip: "会员",
  },
};
