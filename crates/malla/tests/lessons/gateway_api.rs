//! A Gateway and routes of the Gateway API: pods and an address of their own, traffic, what the statuses
//! say, and nothing left when the Gateway goes; and a route for calls within the mesh.

use std::time::Duration;

use malla_testkit::{Demo, Request, eventually};
use serde_json::{Value, json};

const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
/// A pod starts meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

fn objects() -> Value {
    let rule = |path: &str, backend: &str| json!({"matches": [{"path": {"value": path}}], "backendRefs": [{"name": backend, "port": 7000}]});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "base"},
            "spec": {"gatewayClassName": "istio", "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP"},
                {"name": "tcp", "port": 7001, "protocol": "TCP"},
            ]},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute", "metadata": {"name": "edge", "namespace": "base"},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "product", "port": 7000}]}]},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "edge", "namespace": "base"},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [rule("/product", "product"), rule("/none", "none")]},
        },
    ]})
}

/// `Type=Status`, of each condition.
fn conditions(holder: &Value) -> Vec<String> {
    let list = holder["conditions"].as_array().cloned().unwrap_or_default();
    let text = |c: &Value, key: &str| c[key].as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|c| format!("{}={}", text(c, "type"), text(c, "status")))
        .collect()
}

fn apply(demo: &Demo, objects: &Value) {
    let file = std::env::temp_dir().join(format!("malla-gateway-api-{}.json", std::process::id()));
    std::fs::write(&file, objects.to_string()).unwrap();
    drop(demo.kubectl_ok(&["apply", "-f", file.to_str().unwrap()]));
    std::fs::remove_file(&file).unwrap();
}

pub(crate) fn routes_have_gateways_of_their_own(demo: &Demo) {
    apply(demo, &objects());
    let get = |port: u16, path: &str| -> Result<u16, String> {
        let service = demo.kubectl(&["-n", "base", "get", "service", "edge-istio", "-o", "json"]);
        let service = serde_json::from_slice(&service.stdout).map_err(|e| e.to_string())?;
        let published = malla_local::published(&service);
        let at = published.get(&port).ok_or("the port is not open")?;
        Ok(Request::get(&format!("http://{at}{path}")).send()?.status)
    };
    for (port, path, want) in [
        (80, "/product", 200),
        (80, "/none", 500),
        (80, "/other", 404),
        (7001, "/product", 200),
    ] {
        eventually("the route acts", PATIENCE, || match get(port, path) {
            Ok(status) if status == want => Ok(()),
            other => Err(format!("{port} {path}: {other:?}")),
        });
    }
    eventually("the statuses say so", PATIENCE, || {
        let gateway = demo.kubectl_json(&["-n", "base", "get", GATEWAYS, "edge"]);
        let route = demo.kubectl_json(&["-n", "base", "get", "httproute", "edge"]);
        let said = (
            conditions(&gateway["status"]),
            conditions(&route["status"]["parents"][0]),
            gateway["status"]["addresses"][0]["value"].clone(),
        );
        let want = (
            vec!["Accepted=True".to_owned(), "Programmed=True".to_owned()],
            vec!["Accepted=True".to_owned(), "ResolvedRefs=False".to_owned()],
            json!("127.0.0.1"),
        );
        if said == want {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
    drop(demo.kubectl_ok(&["-n", "base", "delete", GATEWAYS, "edge"]));
    drop(demo.kubectl_ok(&["-n", "base", "delete", "httproute,tcproute", "edge"]));
    eventually("nothing of the Gateway is left", PATIENCE, || {
        let of = "deployments,services,serviceaccounts,pods";
        let label = "gateway.networking.k8s.io/gateway-name=edge";
        let left = demo.kubectl_ok(&["-n", "base", "get", of, "-l", label, "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// The shop's page calls `product` through its sidecar.
pub(crate) fn routes_on_services_act_within_the_mesh(demo: &Demo) {
    let product = |want: u16| {
        eventually("calls to product", PATIENCE, || {
            let at = format!("{}/product", demo.shop());
            match Request::get(&at).send()?.status {
                status if status == want => Ok(()),
                status => Err(format!("{status}, not {want}")),
            }
        });
    };
    product(200);
    let parent = json!({"group": "", "kind": "Service", "name": "product", "port": 7000});
    let nobody = json!({"matches": [{"path": {"value": "/product"}}], "backendRefs": [{"name": "none", "port": 7000}]});
    apply(
        demo,
        &json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "product", "namespace": "base"},
            "spec": {"parentRefs": [parent], "rules": [nobody]},
        }),
    );
    product(500);
    eventually("the status says so", PATIENCE, || {
        let route = demo.kubectl_json(&["-n", "base", "get", "httproute", "product"]);
        let said = conditions(&route["status"]["parents"][0]);
        if said == ["Accepted=True", "ResolvedRefs=False"] {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
    drop(demo.kubectl_ok(&["-n", "base", "delete", "httproute", "product"]));
    product(200);
}
