//! The lessons' words. Their YAML is that of `demo/lessons`, which `kubectl` users apply.

use super::{Both, Lesson};

macro_rules! lesson {
    ($id:literal, $file:literal, removable: $removable:literal, $title:expr, $text:expr, [$($step:expr),* $(,)?]) => {
        Lesson {
            id: $id,
            file: $file,
            yaml: include_str!(concat!("../../../../demo/lessons/", $file, ".yaml")),
            title: $title,
            text: $text,
            steps: &[$($step),*],
            removable: $removable,
        }
    };
}

/// In the order they build on each other.
pub(crate) const LESSONS: &[Lesson] = &[
    lesson!("q0", "q00-shop", removable: false,
    Both("Deploy the shop", "部署商店"),
    Both(
        "A shop of six services runs in namespace `base`. The namespace has the label `istio-injection: enabled`, so every pod gets a second container, `istio-proxy`, through which all of its traffic goes.\n\nNothing in the services knows about it.",
        "由六个服务组成的商店运行在命名空间 `base` 中。该命名空间带有标签 `istio-injection: enabled`，因此每个 Pod 都会得到第二个容器 `istio-proxy`，它的所有流量都经过这个代理。\n\n服务本身对此毫不知情。"),
    [
        Both("The demo has done this already: look at Services, where every service says how many of its pods have a proxy.", "演示启动时已经完成：打开“服务”页，可看到每个服务有多少 Pod 带有代理。"),
        Both("Open Proxies: each of them is connected and in sync.", "打开“代理”页：每个代理都已连接并同步。"),
    ]),
    lesson!("q1", "q01-gateway", removable: false,
    Both("Open the shop to the outside", "将商店开放到外部"),
    Both(
        "A `Gateway` opens port 80 of the ingress gateway; a `VirtualService` bound to it sends what arrives to `frontend`. The port opens by itself, no Service has to be edited.",
        "`Gateway` 打开入口网关的 80 端口；绑定到它的 `VirtualService` 把到达的请求转发给 `frontend`。端口会自动打开，不需要修改任何 Service。"),
    [
        Both("Open Gateways and click the address of `base/frontend-gw`: the shop appears.", "打开“网关”页，点击 `base/frontend-gw` 的地址：商店出现。"),
        Both("Log in as user 1, put something into the cart and check out.", "以用户 1 登录，加入购物车并结算。"),
        Both("Open Topology and see which service calls which.", "打开“拓扑”页，看看哪个服务调用了哪个服务。"),
    ]),
    lesson!("q2", "q02-order-v2", removable: true,
    Both("A second version, and no rule", "第二个版本，没有规则"),
    Both(
        "Version 2 of `order` gives VIPs their shipping back. Once it runs beside version 1, and no rule says otherwise, the Service's endpoints are both: answers come from either.",
        "`order` 的第 2 版为 VIP 用户免运费。它与第 1 版同时运行且没有规则时，两者都是该 Service 的端点：回答可能来自任意一个版本。"),
    [
        Both("Deploy `order-v2` (with the button, or with kubectl).", "部署 `order-v2`（用按钮或 kubectl）。"),
        Both("Check out in the shop a few times: the window at the bottom left names the version that answered.", "在商店中结算几次：左下角的窗口显示回答来自哪个版本。"),
    ]),
    lesson!("q3", "q03-order-by-cookie", removable: true,
    Both("Route by what a request says", "按请求内容路由"),
    Both(
        "A `DestinationRule` names the two versions as subsets. A `VirtualService` looks at the cookie: `vip=true` goes to version 2, `vip=false` to version 1. A request without the cookie has no route, and is answered 404.",
        "`DestinationRule` 将两个版本命名为子集。`VirtualService` 查看 cookie：`vip=true` 到第 2 版，`vip=false` 到第 1 版。没有该 cookie 的请求没有路由，返回 404。"),
    [
        Both("Traffic rules, New, DestinationRule: host `order`, subsets `v1` and `v2` by the label `version`.", "“流量规则”→“新建”→DestinationRule：host 为 `order`，按标签 `version` 定义子集 `v1` 和 `v2`。"),
        Both("New, VirtualService `order-vs`: two routes by the header `cookie`.", "新建 VirtualService `order-vs`：按请求头 `cookie` 的两条路由。"),
        Both("Users 1 to 3 are VIPs: their shipping is struck through. Users 4 and 5 pay it.", "用户 1 到 3 是 VIP：运费被划掉。用户 4 和 5 需支付。"),
    ]),
    lesson!("q4", "q04-product-half", removable: true,
    Both("A grey release: half of the calls", "灰度发布：一半的请求"),
    Both(
        "Version 2 of `product` has a banner. Two destinations with weights 50 and 50 give it half of the calls.",
        "`product` 的第 2 版带有横幅。两个目标的权重各为 50，一半的请求到达新版本。"),
    [
        Both("Deploy `product-v2`, and define the subsets of `product`.", "部署 `product-v2`，并定义 `product` 的子集。"),
        Both("VirtualService `product-vs`: path `/product`, two destinations, 50 each.", "VirtualService `product-vs`：路径 `/product`，两个目标，各 50。"),
        Both("Reload the shop: the banner is there about every second time.", "刷新商店：大约每两次出现一次横幅。"),
    ]),
    lesson!("q5", "q05-product-all", removable: true,
    Both("And now for all of them", "现在全部切换"),
    Both("The same rule with one destination and weight 100: the release is complete, and could be taken back as quickly.", "同一条规则，只有一个目标，权重 100：发布完成，也可以同样迅速地回退。"),
    [
        Both("Edit `product-vs`: only `v2`, weight 100. The difference is shown before it is applied.", "编辑 `product-vs`：只保留 `v2`，权重 100。应用前会显示差异。"),
        Both("Reload the shop: the banner is always there.", "刷新商店：横幅始终存在。"),
    ]),
    lesson!("q6", "q06-stock-delay", removable: true,
    Both("What if a service is slow?", "如果某个服务变慢？"),
    Both("A fault in the rule of `stock` delays every call by seven seconds. No service was changed; the callers' proxies wait.", "`stock` 规则中的故障注入让每个请求延迟七秒。没有修改任何服务；等待发生在调用方的代理中。"),
    [
        Both("VirtualService `stock-vs`: delay 7000 ms for 100 % of the requests.", "VirtualService `stock-vs`：对 100% 的请求延迟 7000 毫秒。"),
        Both("Add something to the cart: it takes seven seconds, then succeeds.", "加入购物车：七秒后成功。"),
    ]),
    lesson!("q7", "q07-order-timeout", removable: true,
    Both("Give up in time", "及时放弃"),
    Both(
        "With `timeout: 3000ms` on its routes `order` is given three seconds; then the caller gets a 504, instead of waiting for seven. `cart`, which has no timeout, still waits.\n\nTake lesson Q6 back afterwards: everything is quick again.",
        "在路由上设置 `timeout: 3000ms` 后，`order` 只有三秒时间；之后调用方得到 504，而不是等待七秒。没有超时的 `cart` 仍然等待。\n\n之后请撤销 Q6：一切恢复迅速。"),
    [
        Both("Edit `order-vs`: timeout 3000 ms on both routes.", "编辑 `order-vs`：两条路由的超时都设为 3000 毫秒。"),
        Both("With lesson Q6 in force, check out: after three seconds the shop says that the server did not respond in time.", "在 Q6 生效时结算：三秒后商店提示服务器没有及时响应。"),
    ]),
    lesson!("q8", "q08-cart-affinity", removable: true,
    Both("The same user, the same cart", "同一用户，同一购物车"),
    Both("`cart` has three pods that keep carts in memory, so items seem to vanish. A consistent hash of the header `UserID` sends every user to one of them.", "`cart` 有三个把购物车保存在内存中的 Pod，商品看起来会消失。对请求头 `UserID` 做一致性哈希后，每个用户都到达同一个 Pod。"),
    [
        Both("DestinationRule `cart`: load balancing by consistent hash of the header `UserID`.", "DestinationRule `cart`：按请求头 `UserID` 的一致性哈希做负载均衡。"),
        Both("Open the cart several times: the pod's name stays the same for a user.", "多次打开购物车：同一用户的 Pod 名称保持不变。"),
    ]),
    lesson!("q9", "q09-client", removable: true,
    Both("Load: ten clients", "负载：十个客户端"),
    Both("Ten pods in namespace `test` keep asking who user 1 is. Every line of their logs says `UserID: 1, Vip: true, Name: Kevin`.", "命名空间 `test` 中的十个 Pod 不断询问用户 1 是谁。它们的每行日志都是 `UserID: 1, Vip: true, Name: Kevin`。"),
    [
        Both("Deploy the clients.", "部署客户端。"),
        Both("In Topology an edge from `client` to `user` appears.", "“拓扑”中出现从 `client` 到 `user` 的连线。"),
    ]),
    lesson!("q10", "q10-user-pool", removable: true,
    Both("Protect a service: a small pool", "保护服务：小连接池"),
    Both(
        "A connection pool of one request and one waiting makes each caller's proxy turn the rest away at once, before they reach `user`: some lines say `UserID: 0` and have no name.\n\nLimits are per calling proxy. Take the lesson back afterwards.",
        "连接池限制为一个请求和一个等待：调用方的代理会立即拒绝其余请求，它们不会到达 `user`：部分日志行变为 `UserID: 0` 且没有名字。\n\n限制按调用方代理计算。之后请撤销本课。"),
    [
        Both("DestinationRule `user`: 1 pending, 1 concurrent, 1 request per connection.", "DestinationRule `user`：等待 1、并发 1、每连接 1 个请求。"),
        Both("Logs show the response flag UO (upstream overflow).", "“日志”中出现响应标志 UO（上游溢出）。"),
    ]),
    lesson!("q14", "q14-strict", removable: true,
    Both("Only callers with an identity", "只接受有身份的调用方"),
    Both("By default workloads accept plain text too. A `PeerAuthentication` in mode STRICT lets namespace `base` hear only callers that show a certificate of this mesh. The shop goes on working, since its proxies do.", "默认情况下工作负载也接受明文。STRICT 模式的 `PeerAuthentication` 使命名空间 `base` 只接受出示本网格证书的调用方。商店照常工作，因为它的代理都有证书。"),
    [
        Both("Traffic rules, New, PeerAuthentication in `base`: mode STRICT.", "“流量规则”→“新建”→在 `base` 中创建 PeerAuthentication：模式 STRICT。"),
        Both("Security shows STRICT for every workload of `base`.", "“安全”页中 `base` 的每个工作负载都显示 STRICT。"),
    ]),
    lesson!("q15", "q15-deny-test", removable: true,
    Both("And nobody from namespace test", "拒绝来自 test 的调用"),
    Both("An `AuthorizationPolicy` denies callers whose certificate says namespace `test`. Identity is proven by mutual TLS, not by an address: the clients get 403, the shop is not concerned.", "`AuthorizationPolicy` 拒绝证书属于命名空间 `test` 的调用方。身份由双向 TLS 证明，而不是地址：客户端得到 403，商店不受影响。"),
    [
        Both("AuthorizationPolicy in `base`: DENY, from source namespaces `test`.", "在 `base` 中创建 AuthorizationPolicy：DENY，来源命名空间 `test`。"),
        Both("All lines of the clients become empty; the shop works.", "客户端的所有日志行都变为空；商店正常工作。"),
    ]),
];
