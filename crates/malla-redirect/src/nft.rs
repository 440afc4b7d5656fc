//! The plan as an nftables rule set, one `inet` table for both address families.
//!
//! The chains and their order are Istio's. Where the mode is TPROXY, inbound packets are handed over before any routing, and
//! two marks' worth of bookkeeping brings what the workload answers back to the proxy, which called it by its client's
//! address. The text first creates and deletes the table, so that
//! loading it replaces whatever an earlier run made, in one transaction.

use std::fmt::{self, Write as _};

use ipnet::IpNet;

use crate::plan::{DNS_PORT, Mode, Plan, TUNNEL_PORT, Which};

/// The table all rules are in; `cleanup` removes it and nothing else.
pub const TABLE: &str = "istio-proxy-nat";

/// Text for `nft -f -` that captures as planned.
#[must_use]
pub fn rules(plan: &Plan) -> String {
    let mut text = cleanup();
    let written = write_table(&mut text, plan);
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    text
}

/// Text for `nft -f -` that removes everything, whether or not it is there.
#[must_use]
pub fn cleanup() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn write_table(out: &mut String, plan: &Plan) -> fmt::Result {
    writeln!(out, "table inet {TABLE} {{")?;
    match plan.mode {
        Mode::Redirect => chain(
            out,
            "PREROUTING",
            Some("type nat hook prerouting priority dstnat; policy accept;"),
            |out| writeln!(out, "    meta l4proto tcp jump ISTIO_INBOUND"),
        )?,
        Mode::Tproxy { mark, .. } => handed_over(out, plan, mark)?,
    }
    chain(
        out,
        "OUTPUT",
        Some("type nat hook output priority -100; policy accept;"),
        |out| {
            if plan.dns.is_some() {
                writeln!(out, "    udp dport 53 jump ISTIO_OUTPUT_DNS")?;
                writeln!(out, "    tcp dport 53 jump ISTIO_OUTPUT_DNS")?;
            }
            writeln!(out, "    meta l4proto tcp jump ISTIO_OUTPUT")
        },
    )?;
    if plan.mode == Mode::Redirect {
        let target = "jump ISTIO_IN_REDIRECT";
        chain(out, "ISTIO_INBOUND", None, |out| inbound(out, plan, target))?;
    }
    chain(out, "ISTIO_IN_REDIRECT", None, |out| {
        writeln!(
            out,
            "    meta l4proto tcp redirect to :{}",
            plan.inbound_capture_port
        )
    })?;
    chain(out, "ISTIO_OUTPUT", None, |out| output(out, plan))?;
    if let Some(servers) = &plan.dns {
        chain(out, "ISTIO_OUTPUT_DNS", None, |out| {
            for owner in owners(plan) {
                writeln!(out, "    {owner} return")?;
            }
            for server in servers {
                let to = destination(&IpNet::from(*server));
                writeln!(
                    out,
                    "    {to} meta l4proto {{ tcp, udp }} th dport 53 redirect to :{DNS_PORT}"
                )?;
            }
            Ok(())
        })?;
    }
    chain(out, "ISTIO_REDIRECT", None, |out| {
        writeln!(out, "    meta l4proto tcp redirect to :{}", plan.proxy_port)
    })?;
    writeln!(out, "}}")
}

fn chain(
    out: &mut String,
    name: &str,
    hook: Option<&str>,
    body: impl FnOnce(&mut String) -> fmt::Result,
) -> fmt::Result {
    writeln!(out, "  chain {name} {{")?;
    if let Some(hook) = hook {
        writeln!(out, "    {hook}")?;
    }
    body(out)?;
    writeln!(out, "  }}")
}

/// The chains of TPROXY.
fn handed_over(out: &mut String, plan: &Plan, mark: u32) -> fmt::Result {
    let port = plan.inbound_capture_port;
    chain(out, "ISTIO_TPROXY", None, |out| {
        writeln!(out, "    ip daddr 127.0.0.0/8 return")?;
        writeln!(out, "    ip6 daddr ::1 return")?;
        for family in ["ip", "ip6"] {
            writeln!(
                out,
                "    meta nfproto {} meta l4proto tcp tproxy {family} to :{port} meta mark set {mark} accept",
                if family == "ip" { "ipv4" } else { "ipv6" }
            )?;
        }
        Ok(())
    })?;
    chain(out, "ISTIO_INBOUND", None, |out| {
        // What goes on within the pod; its routes are chosen below.
        writeln!(out, "    iifname lo return")?;
        // Packets of connections that the proxy has, on either side of it.
        writeln!(out, "    socket transparent 1 meta mark set {mark} accept")?;
        inbound(out, plan, "jump ISTIO_TPROXY")
    })?;
    chain(
        out,
        "PREROUTING",
        Some("type filter hook prerouting priority mangle; policy accept;"),
        |out| writeln!(out, "    meta l4proto tcp jump ISTIO_INBOUND"),
    )?;
    chain(
        out,
        "ISTIO_ROUTE",
        Some("type route hook output priority mangle; policy accept;"),
        |out| {
            // The proxy marks its connections to the workload; what belongs to one goes the way it came.
            writeln!(out, "    meta mark {mark} ct mark set {mark}")?;
            writeln!(out, "    ct mark {mark} meta mark set {mark}")
        },
    )
}

fn inbound(out: &mut String, plan: &Plan, target: &str) -> fmt::Result {
    writeln!(out, "    tcp dport {TUNNEL_PORT} return")?;
    match &plan.inbound {
        Which::AllBut(ports) => {
            for port in ports {
                writeln!(out, "    tcp dport {port} return")?;
            }
            writeln!(out, "    {target}")
        }
        Which::Only(ports) => ports
            .iter()
            .try_for_each(|port| writeln!(out, "    tcp dport {port} {target}")),
    }
}

fn output(out: &mut String, plan: &Plan) -> fmt::Result {
    if let Mode::Tproxy { mark, .. } = plan.mode {
        // The proxy's connections to the workload.
        writeln!(out, "    meta mark {mark} return")?;
    }
    for port in &plan.exclude_outbound_ports {
        writeln!(out, "    tcp dport {port} return")?;
    }
    // 127.0.0.6 and ::6 are what the proxy calls its own application from.
    writeln!(out, "    oifname lo ip saddr 127.0.0.6 return")?;
    writeln!(out, "    oifname lo ip6 saddr ::6 return")?;
    for owner in owners(plan) {
        // The proxy calling its own pod by address goes through the inbound side, as a peer would.
        for not_local in ["ip daddr != 127.0.0.1", "ip6 daddr != ::1"] {
            writeln!(
                out,
                "    oifname lo {not_local} tcp dport != {{ 53, {TUNNEL_PORT} }} {owner} jump ISTIO_IN_REDIRECT"
            )?;
        }
    }
    // What the application says to itself stays between it and itself.
    let strangers: Vec<String> = owners(plan)
        .iter()
        .map(|owner| owner.replacen("id ", "id != ", 1))
        .collect();
    writeln!(out, "    oifname lo {} return", strangers.join(" "))?;
    for owner in owners(plan) {
        writeln!(out, "    {owner} return")?;
    }
    writeln!(out, "    ip daddr 127.0.0.1 return")?;
    writeln!(out, "    ip6 daddr ::1 return")?;
    if let Which::AllBut(ranges) = &plan.outbound {
        for range in ranges {
            writeln!(out, "    {} return", destination(range))?;
        }
    }
    for port in &plan.outbound_ports {
        writeln!(out, "    tcp dport {port} jump ISTIO_REDIRECT")?;
    }
    match &plan.outbound {
        Which::AllBut(_) => writeln!(out, "    jump ISTIO_REDIRECT"),
        Which::Only(ranges) => ranges
            .iter()
            .try_for_each(|r| writeln!(out, "    {} jump ISTIO_REDIRECT", destination(r))),
    }
}

/// Matches of the proxy's own processes, such as `meta skuid 1337`.
fn owners(plan: &Plan) -> Vec<String> {
    let uids = plan.uids.iter().map(|id| format!("meta skuid {id}"));
    let gids = plan.gids.iter().map(|id| format!("meta skgid {id}"));
    uids.chain(gids).collect()
}

fn destination(range: &IpNet) -> String {
    match range {
        IpNet::V4(net) => format!("ip daddr {net}"),
        IpNet::V6(net) => format!("ip6 daddr {net}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::plan::Settings;

    fn check(settings: &Settings, want: &Expect) {
        want.assert_eq(&rules(&Plan::try_from(settings).unwrap()));
    }

    #[test]
    fn everything_is_captured_by_default() {
        check(
            &Settings::default(),
            &expect![[r#"
            table inet istio-proxy-nat
            delete table inet istio-proxy-nat
            table inet istio-proxy-nat {
              chain PREROUTING {
                type nat hook prerouting priority dstnat; policy accept;
                meta l4proto tcp jump ISTIO_INBOUND
              }
              chain OUTPUT {
                type nat hook output priority -100; policy accept;
                meta l4proto tcp jump ISTIO_OUTPUT
              }
              chain ISTIO_INBOUND {
                tcp dport 15008 return
                jump ISTIO_IN_REDIRECT
              }
              chain ISTIO_IN_REDIRECT {
                meta l4proto tcp redirect to :15006
              }
              chain ISTIO_OUTPUT {
                oifname lo ip saddr 127.0.0.6 return
                oifname lo ip6 saddr ::6 return
                oifname lo ip daddr != 127.0.0.1 tcp dport != { 53, 15008 } meta skuid 1337 jump ISTIO_IN_REDIRECT
                oifname lo ip6 daddr != ::1 tcp dport != { 53, 15008 } meta skuid 1337 jump ISTIO_IN_REDIRECT
                oifname lo ip daddr != 127.0.0.1 tcp dport != { 53, 15008 } meta skgid 1337 jump ISTIO_IN_REDIRECT
                oifname lo ip6 daddr != ::1 tcp dport != { 53, 15008 } meta skgid 1337 jump ISTIO_IN_REDIRECT
                oifname lo meta skuid != 1337 meta skgid != 1337 return
                meta skuid 1337 return
                meta skgid 1337 return
                ip daddr 127.0.0.1 return
                ip6 daddr ::1 return
                jump ISTIO_REDIRECT
              }
              chain ISTIO_REDIRECT {
                meta l4proto tcp redirect to :15001
              }
            }
        "#]],
        );
    }

    #[test]
    fn connections_are_handed_over_as_they_are() {
        let settings = Settings {
            mode: "TPROXY".into(),
            exclude_inbound_ports: "15020".into(),
            ..Settings::default()
        };
        let text = rules(&Plan::try_from(&settings).unwrap());
        let (inbound, rest) = text.split_once("  chain OUTPUT {").unwrap();
        expect![[r#"
            table inet istio-proxy-nat
            delete table inet istio-proxy-nat
            table inet istio-proxy-nat {
              chain ISTIO_TPROXY {
                ip daddr 127.0.0.0/8 return
                ip6 daddr ::1 return
                meta nfproto ipv4 meta l4proto tcp tproxy ip to :15006 meta mark set 1337 accept
                meta nfproto ipv6 meta l4proto tcp tproxy ip6 to :15006 meta mark set 1337 accept
              }
              chain ISTIO_INBOUND {
                iifname lo return
                socket transparent 1 meta mark set 1337 accept
                tcp dport 15008 return
                tcp dport 15020 return
                jump ISTIO_TPROXY
              }
              chain PREROUTING {
                type filter hook prerouting priority mangle; policy accept;
                meta l4proto tcp jump ISTIO_INBOUND
              }
              chain ISTIO_ROUTE {
                type route hook output priority mangle; policy accept;
                meta mark 1337 ct mark set 1337
                ct mark 1337 meta mark set 1337
              }
        "#]]
        .assert_eq(inbound);
        assert!(
            rest.contains("chain ISTIO_OUTPUT {\n    meta mark 1337 return\n"),
            "{rest}"
        );
    }

    #[test]
    fn exceptions_come_before_captures() {
        check(
            &Settings {
                exclude_inbound_ports: "15090,15021".into(),
                outbound_ranges: "10.0.0.0/8,fd00::/8".into(),
                outbound_ports: "443".into(),
                exclude_outbound_ports: "25".into(),
                redirect_dns: true,
                dns_servers: vec!["10.96.0.10".parse().unwrap()],
                ..Settings::default()
            },
            &expect![[r#"
                table inet istio-proxy-nat
                delete table inet istio-proxy-nat
                table inet istio-proxy-nat {
                  chain PREROUTING {
                    type nat hook prerouting priority dstnat; policy accept;
                    meta l4proto tcp jump ISTIO_INBOUND
                  }
                  chain OUTPUT {
                    type nat hook output priority -100; policy accept;
                    udp dport 53 jump ISTIO_OUTPUT_DNS
                    tcp dport 53 jump ISTIO_OUTPUT_DNS
                    meta l4proto tcp jump ISTIO_OUTPUT
                  }
                  chain ISTIO_INBOUND {
                    tcp dport 15008 return
                    tcp dport 15090 return
                    tcp dport 15021 return
                    jump ISTIO_IN_REDIRECT
                  }
                  chain ISTIO_IN_REDIRECT {
                    meta l4proto tcp redirect to :15006
                  }
                  chain ISTIO_OUTPUT {
                    tcp dport 25 return
                    oifname lo ip saddr 127.0.0.6 return
                    oifname lo ip6 saddr ::6 return
                    oifname lo ip daddr != 127.0.0.1 tcp dport != { 53, 15008 } meta skuid 1337 jump ISTIO_IN_REDIRECT
                    oifname lo ip6 daddr != ::1 tcp dport != { 53, 15008 } meta skuid 1337 jump ISTIO_IN_REDIRECT
                    oifname lo ip daddr != 127.0.0.1 tcp dport != { 53, 15008 } meta skgid 1337 jump ISTIO_IN_REDIRECT
                    oifname lo ip6 daddr != ::1 tcp dport != { 53, 15008 } meta skgid 1337 jump ISTIO_IN_REDIRECT
                    oifname lo meta skuid != 1337 meta skgid != 1337 return
                    meta skuid 1337 return
                    meta skgid 1337 return
                    ip daddr 127.0.0.1 return
                    ip6 daddr ::1 return
                    tcp dport 443 jump ISTIO_REDIRECT
                    ip daddr 10.0.0.0/8 jump ISTIO_REDIRECT
                    ip6 daddr fd00::/8 jump ISTIO_REDIRECT
                  }
                  chain ISTIO_OUTPUT_DNS {
                    meta skuid 1337 return
                    meta skgid 1337 return
                    ip daddr 10.96.0.10/32 meta l4proto { tcp, udp } th dport 53 redirect to :15053
                  }
                  chain ISTIO_REDIRECT {
                    meta l4proto tcp redirect to :15001
                  }
                }
            "#]],
        );
    }
}
