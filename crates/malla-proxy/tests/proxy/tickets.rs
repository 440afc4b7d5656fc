//! Session tickets that several proxies can read: a client resumes at one what it began at another.
use std::net::SocketAddr;
use std::path::Path;

use tokio::process::Command;

use super::sources::Files;
use super::support::{
    Certs, Envoy, Running, bind, bootstrap, cluster, echo, free_port, listener, tcp_proxy,
};

fn yaml(certs: &Certs, address: SocketAddr, app: SocketAddr, keys: &str) -> String {
    let tls = certs.downstream("server").replace(
        "require_client_certificate: true",
        &format!("require_client_certificate: false, {keys}"),
    );
    let front = listener("in", address, &tcp_proxy("app", ""), &tls);
    let plain = bootstrap(&[front], &[cluster("app", &[app], "")]);
    format!("node: {{ id: me, cluster: us }}\n{plain}")
}

/// Whether a client with this session file resumes; `keep` writes one.
async fn resumed(address: SocketAddr, session: &Path, keep: bool) -> bool {
    let option = if keep { "-sess_out" } else { "-sess_in" };
    let words = format!(
        "openssl s_client -connect {address} -tls1_2 {option} {} </dev/null",
        session.display()
    );
    let output = Command::new("sh")
        .arg("-c")
        .arg(words)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("New, TLSv1.2") || said.contains("Reused, TLSv1.2"),
        "{said}"
    );
    said.contains("Reused, TLSv1.2")
}

/// Keys in the configuration, and as a secret in a file.
fn kinds_of_keys(certs: &Certs, files: &Files) -> [String; 2] {
    let key = certs.path("tickets");
    std::fs::write(&key, (0..80).collect::<Vec<u8>>()).unwrap();
    let inline = format!(
        "session_ticket_keys: {{ keys: [ {{ filename: {} }} ] }}",
        key.display()
    );
    files.put(
        "sds.yaml",
        &format!(
            "resources: [ {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: tickets, {inline} }} ]"
        ),
    );
    let secret = format!(
        "session_ticket_keys_sds_secret_config: {{ name: tickets, sds_config: {} }}",
        files.source("sds.yaml")
    );
    [inline, secret]
}

#[tokio::test]
async fn who_has_the_keys_resumes_the_session() {
    let (certs, files) = (Certs::new(&["server"]), Files::new());
    let app = echo("").await;
    let session = certs.path("session");
    for keys in kinds_of_keys(&certs, &files) {
        for with_envoy in [true, false] {
            let at = [free_port(), free_port(), free_port()];
            let configured = [
                yaml(&certs, at[0], app, &keys),
                yaml(&certs, at[1], app, &keys),
                yaml(&certs, at[2], app, "full_scan_certs_on_sni_mismatch: false"),
            ];
            let (mut envoys, mut proxies) = (Vec::new(), Vec::new());
            for yaml in &configured {
                if with_envoy {
                    envoys.push(Envoy::start(yaml).await);
                } else {
                    proxies.push(Running::run(bind(yaml).await.unwrap()));
                }
            }
            assert!(!resumed(at[0], &session, true).await);
            for (address, want) in [(at[0], true), (at[1], true), (at[2], false)] {
                let got = resumed(address, &session, false).await;
                assert_eq!(got, want, "{keys} with Envoy: {with_envoy}");
            }
            for proxy in proxies {
                proxy.stop().await;
            }
        }
    }
}
