//! Redirected connections, in a network namespace of their own.
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

use super::support::{Running, cluster, echo_at, listener, round_trip, tcp_proxy};

/// Everything to 10.9.0.0/24 goes to the proxy, unless it comes from the proxy (127.0.0.6).
const RULES: &str = "
table ip test {
  chain output {
    type nat hook output priority -100
    ip saddr 127.0.0.6 return
    ip daddr 10.9.0.0/24 tcp dport 1-60000 redirect to :15001
  }
}";

/// Runs `test` on a thread in a network namespace of its own, with `lo` up.
fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (run the tests as root)");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["addr", "add", "10.9.0.1/24", "dev", "lo"]);
        run("ip", &["addr", "add", "10.9.0.2/24", "dev", "lo"]);
        let rules = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(rules.path(), RULES).unwrap();
        run("nft", &["-f", &rules.path().display().to_string()]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            timeout(Duration::from_secs(30), test)
                .await
                .expect("in time")
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}

const FROM_PROXY: &str =
    "    upstream_bind_config: { source_address: { address: 127.0.0.6, port_value: 0 } }\n";

fn outbound() -> String {
    let any = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
    let virtual_listener = |name: &str, address: &str, port: u16, cluster: &str| {
        let at = format!("{address}:{port}").parse().unwrap();
        listener(
            name,
            at,
            &tcp_proxy(cluster, ""),
            "    bind_to_port: false\n",
        )
    };
    let listeners = [
        listener(
            "virtualOutbound",
            any(15001),
            &tcp_proxy("passthrough", ""),
            "    use_original_dst: true\n",
        ),
        virtual_listener("10.9.0.2_80", "10.9.0.2", 80, "exact"),
        virtual_listener("0.0.0.0_7070", "0.0.0.0", 7070, "wildcard"),
    ];
    let passthrough = format!(
        "  - name: passthrough\n    connect_timeout: 1s\n    type: ORIGINAL_DST\n    lb_policy: CLUSTER_PROVIDED\n{FROM_PROXY}"
    );
    let clusters = [
        passthrough,
        cluster("exact", &[any(9001)], ""),
        cluster("wildcard", &[any(9002)], ""),
    ];
    super::support::bootstrap(&listeners, &clusters)
}

#[test]
fn connections_reach_the_listener_of_their_original_destination() {
    in_namespace(async {
        echo_at("127.0.0.1:9001".parse().unwrap(), "exact ").await;
        echo_at("127.0.0.1:9002".parse().unwrap(), "wildcard ").await;
        echo_at("10.9.0.1:5555".parse().unwrap(), "beyond ").await;
        let (proxy, _) = Running::start(&outbound(), "virtualOutbound").await;
        for (destination, answer) in [
            ("10.9.0.2:80", "exact x"),
            ("10.9.0.1:7070", "wildcard x"),
            ("10.9.0.2:7070", "wildcard x"),
            ("10.9.0.1:5555", "beyond x"),
        ] {
            assert_eq!(
                round_trip(destination.parse().unwrap(), "x").await,
                answer,
                "to {destination}"
            );
        }
        // Nobody listens there: the proxy cannot connect either.
        assert_eq!(round_trip("10.9.0.1:6666".parse().unwrap(), "x").await, "");
        // Straight to the proxy: there is no original destination to pass it on to, and no loop.
        assert_eq!(
            round_trip("127.0.0.1:15001".parse().unwrap(), "x").await,
            ""
        );
        let clusters = proxy.admin("/clusters").await;
        assert!(
            clusters.contains("passthrough::default_priority"),
            "{clusters}"
        );
        proxy.stop().await;
    });
}
