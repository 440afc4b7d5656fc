//! The rule sets are taken by the real tools, in a network namespace of their own, twice over.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use malla_redirect::iptables::{self, Family};
use malla_redirect::{Plan, Settings, nft};

/// Runs a shell script as root of a new network namespace (and of a user namespace in which uid
/// 1337 exists, for those who are not root already), with `input` at its standard input.
fn in_namespace(script: &str, input: &str) -> String {
    let root = nix::unistd::Uid::effective().is_root();
    let user: &[&str] = if root {
        &[]
    } else {
        &["--user", "--map-root-user", "--map-auto"]
    };
    let mut child = Command::new("unshare")
        .args(user)
        .args(["--net", "sh", "-ec", script])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare (package util-linux)");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn plan() -> Plan {
    Plan::try_from(&Settings {
        exclude_inbound_ports: "15090,15021,15020".into(),
        exclude_outbound_ranges: "10.1.0.0/16,fd01::/16".into(),
        exclude_outbound_ports: "25".into(),
        redirect_dns: true,
        dns_servers: vec!["10.96.0.10".parse().unwrap()],
        ..Settings::default()
    })
    .unwrap()
}

#[test]
fn nft_takes_the_rules_twice_and_lets_go_of_them() {
    let script = "cat > /dev/shm/rules.$$; nft -f /dev/shm/rules.$$; nft -f /dev/shm/rules.$$; rm /dev/shm/rules.$$; nft list ruleset";
    let loaded = in_namespace(script, &nft::rules(&plan()));
    assert_eq!(loaded.matches("redirect to :15001").count(), 1, "{loaded}");
    let text = format!("{}{}", nft::rules(&plan()), nft::cleanup());
    assert_eq!(in_namespace("nft -f -; nft list ruleset", &text).trim(), "");
}

#[test]
fn nft_takes_transparent_rules() {
    let plan = Plan::try_from(&Settings {
        mode: "TPROXY".into(),
        ..Settings::default()
    });
    let loaded = in_namespace("nft -f -; nft list ruleset", &nft::rules(&plan.unwrap()));
    assert_eq!(loaded.matches("tproxy ip to :15006").count(), 1, "{loaded}");
    assert_eq!(loaded.matches("redirect to :15001").count(), 1, "{loaded}");
}

#[test]
fn iptables_takes_the_rules_and_lets_go_of_them() {
    for (family, tool) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let undo: Vec<String> = iptables::cleanup()
            .iter()
            .map(|call| format!("{tool} {}", call.join(" ")))
            .collect();
        let script = format!(
            "{tool}-restore --noflush; {tool} -t nat -S | grep -c ISTIO_REDIRECT; {}; {tool} -t nat -S | grep -c ISTIO || true",
            undo.join("; ")
        );
        let counts = in_namespace(&script, &iptables::rules(&plan(), family));
        let counts: Vec<u32> = counts
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        assert!(counts[0] >= 2 && counts[1] == 0, "{counts:?}");
    }
}
