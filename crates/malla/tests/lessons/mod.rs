//! Every lesson carried out as a user would, and what that user then sees, by real requests.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics and tells how far it got"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "each of the tests has its own way of working"
)]

mod gateway_api;
mod hand;
mod https;
mod shop;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use malla_testkit::{Demo, eventually};
use serde_json::Value;

pub(crate) use hand::{Console, Hand, Kubectl};
pub(crate) use shop::Shop;

const SOON: Duration = Duration::from_secs(20);
const POD_START: Duration = Duration::from_secs(90);

/// A mesh, who works on it, and its shop.
pub(crate) struct Class<'a> {
    pub(crate) demo: &'a Demo,
    pub(crate) hand: &'a dyn Hand,
    pub(crate) shop: Shop,
}

type Lesson = fn(&Class<'_>);

/// What each lesson promises, in the order they build on each other.
pub(crate) const LESSONS: [(&str, Lesson); 13] = [
    ("Q0 every pod has a sidecar", every_pod_has_a_sidecar),
    ("Q1 the shop works", the_shop_works),
    ("Q2 both versions answer", both_versions_answer),
    ("Q3 the cookie decides", the_cookie_decides),
    ("Q4 half of the calls", half_of_the_calls),
    ("Q5 all of the calls", all_of_the_calls),
    ("Q6 stock takes seven seconds", stock_takes_seven_seconds),
    ("Q7 order gives up after three", order_gives_up_after_three),
    (
        "Q8 the same user, the same cart",
        the_same_user_the_same_cart,
    ),
    ("Q9 clients are answered", clients_are_answered),
    (
        "Q10 a pool of one turns calls away",
        a_pool_of_one_turns_calls_away,
    ),
    ("Q14 plain text is reset", plain_text_is_reset),
    ("Q15 clients are denied", clients_are_denied),
];

/// Runs all lessons on one demo, by `kubectl`.
pub(crate) fn run(name: &str, arguments: &[&str]) {
    let demo = Demo::start(Path::new(env!("CARGO_BIN_EXE_malla")), name, arguments);
    let kubectl = Kubectl(&demo);
    https::comes_from_secrets(&demo);
    gateway_api::routes_have_gateways_of_their_own(&demo);
    gateway_api::routes_on_services_act_within_the_mesh(&demo);
    // Applying what is there already changes nothing and warns of nothing.
    kubectl.lesson("q01-gateway");
    let class = Class {
        demo: &demo,
        hand: &kubectl,
        shop: Shop::new(&demo.shop()),
    };
    attend(name, &class, &LESSONS);
    nothing_was_refused(&demo);
    the_proxies_are_shown(&demo);
    demo.stop();
}

/// Carries out some lessons, and looks at what they promise.
pub(crate) fn attend(name: &str, class: &Class<'_>, lessons: &[(&str, Lesson)]) {
    for (lesson, check) in lessons {
        let started = Instant::now();
        check(class);
        println!(
            "{name}: {lesson}: ok ({:.1} s)",
            started.elapsed().as_secs_f64()
        );
    }
}

/// What `malla` prints for the demo's cluster; it must succeed.
fn malla(demo: &Demo, arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_malla"))
        .args(arguments)
        .env("KUBECONFIG", demo.kubeconfig())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "malla {arguments:?}: {told}");
    String::from_utf8(done.stdout).unwrap()
}

/// Every proxy is connected, has what it was offered, and says where requests go: through the API
/// server's port forwarding, as `istioctl` asks.
fn the_proxies_are_shown(demo: &Demo) {
    let gateway = malla(demo, &["proxy-status", "-n", "istio-system"]);
    assert!(gateway.contains("istio-ingressgateway"), "{gateway}");
    let status = malla(demo, &["proxy-status", "-n", "base"]);
    let pods = demo.kubectl_json(&["-n", "base", "get", "pods"]);
    for pod in pods["items"].as_array().unwrap() {
        let name = format!("{}.base ", pod["metadata"]["name"].as_str().unwrap());
        let line = status.lines().find(|line| line.starts_with(&name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {status}"));
        assert!(line.ends_with("4 (CDS,LDS,EDS,RDS)"), "{line}");
    }
    let same = malla(demo, &["proxy-status", "-n", "base", "deployment/frontend"]);
    assert_eq!(same, "Clusters Match\nListeners Match\nRoutes Match\n");
    let rows = |what: &str, of: &str| {
        let table = malla(
            demo,
            &["proxy-config", what, "deployment/frontend", "-n", "base"],
        );
        table.lines().filter(|line| line.contains(of)).count()
    };
    assert!(rows("cluster", "order.base.svc.cluster.local") >= 1);
    assert!(rows("listener", "Route: 7000") >= 1);
    assert!(rows("route", "order.base.svc.cluster.local:7000") >= 1);
    assert!(rows("endpoint", "HEALTHY") >= 1);
    assert_eq!(rows("secret", "Cert Chain     ACTIVE     true"), 1);
}

fn every_pod_has_a_sidecar(class: &Class<'_>) {
    let Class { demo, .. } = class;
    let pods = demo.kubectl_json(&["-n", "base", "get", "pods"]);
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(
        pods.len(),
        8,
        "frontend, product, user, stock, three carts, order"
    );
    for pod in pods {
        let containers = pod["spec"]["containers"].as_array().unwrap();
        assert!(
            containers.len() == 2 && containers.iter().any(|c| c["name"] == "istio-proxy"),
            "{}",
            pod["metadata"]["name"]
        );
    }
    let shown = demo.kubectl_ok(&["-n", "base", "get", "pods"]);
    assert_eq!(shown.matches("2/2").count(), 8, "{shown}");
}

fn the_shop_works(class: &Class<'_>) {
    let Class { shop, .. } = class;
    let page = shop.page();
    assert!(page.contains("shop.js"), "{page}");
    assert_eq!(
        shop.product().unwrap()["product"].as_array().unwrap().len(),
        8
    );
    assert_eq!(shop.user(1).unwrap()["Name"], "Kevin");
    let order = shop.order(None).unwrap();
    assert_eq!(order["Total"], 110, "{order}");
    shop.browse("first-visit");
}

/// How many of the calls v1 and v2 answered.
fn versions(
    times: usize,
    mut call: impl FnMut() -> Result<String, String>,
) -> Result<(usize, usize), String> {
    let mut seen = (0, 0);
    for _ in 0..times {
        match call()?.rsplit('-').next() {
            Some("v1") => seen.0 += 1,
            Some("v2") => seen.1 += 1,
            other => panic!("version {other:?}"),
        }
    }
    Ok(seen)
}

fn wait_for_pods(demo: &Demo, namespace: &str, deployment: &str) {
    let name = format!("deployment/{deployment}");
    drop(demo.kubectl_ok(&[
        "-n",
        namespace,
        "rollout",
        "status",
        &name,
        &format!("--timeout={}s", POD_START.as_secs()),
    ]));
}

fn both_versions_answer(class: &Class<'_>) {
    let Class { demo, hand, shop } = class;
    hand.lesson("q02-order-v2");
    wait_for_pods(demo, "base", "order-v2");
    eventually("calls reach both versions", SOON, || {
        let (one, two) = versions(20, || shop.order_version(None))?;
        if one > 0 && two > 0 {
            Ok(())
        } else {
            Err(format!("{one} v1, {two} v2"))
        }
    });
}

fn the_cookie_decides(class: &Class<'_>) {
    let Class { hand, shop, .. } = class;
    hand.lesson("q03-order-by-cookie");
    eventually("no cookie, no route", SOON, || {
        match shop.order_status(None) {
            Ok(404) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(
        versions(20, || shop.order_version(Some("vip=true"))),
        Ok((0, 20))
    );
    assert_eq!(
        versions(20, || shop.order_version(Some("vip=false"))),
        Ok((20, 0))
    );
    let (vip, other) = (
        shop.order(Some("vip=true")).unwrap(),
        shop.order(Some("vip=false")).unwrap(),
    );
    assert_eq!(
        (vip["Total"].as_i64(), other["Total"].as_i64()),
        (Some(100), Some(110))
    );
    shop.browse("vip");
}

fn half_of_the_calls(class: &Class<'_>) {
    let Class { demo, hand, shop } = class;
    hand.lesson("q04-product-half");
    wait_for_pods(demo, "base", "product-v2");
    eventually("about half of the calls reach v2", SOON, || {
        let (one, two) = versions(60, || shop.product_version())?;
        // 60 fair coins are outside of this once in ten thousand times.
        if (15..=45).contains(&two) {
            Ok(())
        } else {
            Err(format!("{one} v1, {two} v2"))
        }
    });
}

fn all_of_the_calls(class: &Class<'_>) {
    let Class { hand, shop, .. } = class;
    hand.lesson("q05-product-all");
    eventually("all calls reach v2", SOON, || {
        match versions(30, || shop.product_version())? {
            (0, 30) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    shop.browse("banner");
}

fn stock_takes_seven_seconds(class: &Class<'_>) {
    let Class { hand, shop, .. } = class;
    hand.lesson("q06-stock-delay");
    let took = eventually(
        "the cart takes seven seconds",
        Duration::from_secs(60),
        || {
            let answer = shop.cart(1, 1, 1)?.expect(200)?;
            if answer.took >= Duration::from_secs(7) {
                Ok(answer.took)
            } else {
                Err(format!("{:?}", answer.took))
            }
        },
    );
    assert!(took < Duration::from_millis(7900), "{took:?}");
    let order = shop
        .order_call(Some("vip=true"))
        .unwrap()
        .expect(200)
        .unwrap();
    assert!(order.took >= Duration::from_secs(7), "{:?}", order.took);
}

fn order_gives_up_after_three(class: &Class<'_>) {
    let Class { hand, shop, .. } = class;
    hand.lesson("q07-order-timeout");
    let answer = eventually("order times out", Duration::from_secs(60), || {
        shop.order_call(Some("vip=true"))?.expect(504)
    });
    assert!(
        (2900..3900).contains(&answer.took.as_millis()),
        "{:?}",
        answer.took
    );
    let cart = shop.cart(1, 1, 1).unwrap().expect(200).unwrap();
    assert!(cart.took >= Duration::from_secs(7), "{:?}", cart.took);
    shop.browse("timeout");
    hand.delete("virtualservice", "stock-vs");
    eventually("without the fault all is quick again", SOON, || {
        let answer = shop.order_call(Some("vip=true"))?.expect(200)?;
        if answer.took < Duration::from_secs(1) {
            Ok(())
        } else {
            Err(format!("{:?}", answer.took))
        }
    });
}

fn cart_pods(shop: &Shop, user: u32, calls: usize) -> Vec<String> {
    let mut pods: Vec<String> = (0..calls).map(|_| shop.cart_pod(user).unwrap()).collect();
    pods.sort();
    pods.dedup();
    pods
}

fn the_same_user_the_same_cart(class: &Class<'_>) {
    let Class { hand, shop, .. } = class;
    assert!(
        cart_pods(shop, 1, 30).len() > 1,
        "without affinity carts alternate"
    );
    hand.lesson("q08-cart-affinity");
    eventually("a user stays with one cart", SOON, || {
        match cart_pods(shop, 1, 20).len() {
            1 => Ok(()),
            pods => Err(format!("{pods} pods")),
        }
    });
    for user in 1..=5 {
        assert_eq!(cart_pods(shop, user, 20).len(), 1, "user {user}");
    }
}

/// Lines of the clients' logs from now on, as (good, bad).
fn client_lines(demo: &Demo) -> (usize, usize) {
    let now = demo.kubectl_ok(&[
        "-n",
        "test",
        "logs",
        "deployment/client",
        "-c",
        "client",
        "--since=1s",
        "--tail=400",
    ]);
    let good = now
        .lines()
        .filter(|line| *line == "UserID: 1, Vip: true, Name: Kevin")
        .count();
    let bad = now
        .lines()
        .filter(|line| *line == "UserID: 0, Vip: false, Name: ")
        .count();
    assert_eq!(good + bad, now.lines().count(), "{now}");
    (good, bad)
}

fn all_good(demo: &Demo) -> Result<(), String> {
    match client_lines(demo) {
        (good, 0) if good > 10 => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn clients_are_answered(class: &Class<'_>) {
    let Class { demo, hand, .. } = class;
    hand.lesson("q09-client");
    wait_for_pods(demo, "test", "client");
    eventually("every line is Kevin", Duration::from_secs(60), || {
        all_good(demo)
    });
}

fn a_pool_of_one_turns_calls_away(class: &Class<'_>) {
    let Class { demo, hand, .. } = class;
    hand.lesson("q10-user-pool");
    eventually(
        "some calls are turned away and some are not",
        SOON,
        || match client_lines(demo) {
            (good, bad) if good > 5 && bad > 5 => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    hand.delete("destinationrule", "user");
    eventually("without the pool all are answered again", SOON, || {
        all_good(demo)
    });
}

/// curl in a client's sidecar container, whose traffic is not captured: exit code and message.
fn curl_as_proxy(demo: &Demo) -> (i32, String) {
    let pods = demo.kubectl_json(&["-n", "test", "get", "pods", "-l", "app=client"]);
    let pod = pods["items"][0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let url = "http://product.base.svc.cluster.local:7000/product";
    let output = demo.kubectl(&[
        "-n",
        "test",
        "exec",
        &pod,
        "-c",
        "istio-proxy",
        "--",
        "curl",
        "-sS",
        "-m",
        "10",
        url,
    ]);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code().unwrap_or(-1), said)
}

fn plain_text_is_reset(class: &Class<'_>) {
    let Class { demo, hand, shop } = class;
    let (code, said) = curl_as_proxy(demo);
    assert!(code == 0 && said.contains("product-v"), "{code}: {said}");
    hand.lesson("q14-strict");
    eventually("plain text is reset", SOON, || match curl_as_proxy(demo) {
        (56, said) if said.contains("reset by peer") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    shop.product().unwrap();
    all_good(demo).unwrap();
}

fn clients_are_denied(class: &Class<'_>) {
    let Class { demo, hand, shop } = class;
    hand.lesson("q15-deny-test");
    eventually("every line is empty", SOON, || match client_lines(demo) {
        (0, bad) if bad > 10 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(
        shop.user(1).unwrap()["Name"],
        "Kevin",
        "the shop itself is not concerned"
    );
}

/// No proxy refused anything, and every rule says that it is active everywhere.
pub(crate) fn nothing_was_refused(demo: &Demo) {
    for kind in [
        "virtualservices",
        "destinationrules",
        "gateways.networking.istio.io",
        "peerauthentications",
        "authorizationpolicies",
    ] {
        eventually("every rule is active on every proxy", SOON, || {
            let list = demo.kubectl_json(&["-n", "base", "get", kind]);
            for object in list["items"].as_array().into_iter().flatten() {
                let conditions = object["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let reconciled = conditions.iter().find(|c| c["type"] == "Reconciled");
                if reconciled.is_none_or(|c| c["status"] != "True") {
                    return Err(format!(
                        "{kind}/{}: {}",
                        object["metadata"]["name"],
                        Value::Array(conditions)
                    ));
                }
            }
            Ok(())
        });
    }
}
