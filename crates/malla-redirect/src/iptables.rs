//! The plan as `iptables-restore` text, for kernels and images without nftables. IPv4 and IPv6 are
//! two rule sets, made by the same code.

use std::fmt::{self, Write as _};

use ipnet::IpNet;

use crate::plan::{DNS_PORT, Plan, TUNNEL_PORT, Which};

/// Our chains; the built-in ones hold one jump each.
const CHAINS: [&str; 5] = [
    "ISTIO_INBOUND",
    "ISTIO_IN_REDIRECT",
    "ISTIO_OUTPUT",
    "ISTIO_OUTPUT_DNS",
    "ISTIO_REDIRECT",
];

/// Which of the two tools the text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn has(self, net: &IpNet) -> bool {
        matches!(
            (self, net),
            (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_))
        )
    }

    fn localhost(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1/32",
            Self::V6 => "::1/128",
        }
    }

    /// What the proxy calls its own application from.
    fn inbound_source(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6/32",
            Self::V6 => "::6/128",
        }
    }
}

/// Arguments, one list per call, that remove our rules; calls on what is absent fail harmlessly.
#[must_use]
pub fn cleanup() -> Vec<Vec<&'static str>> {
    let mut calls = vec![
        vec![
            "-t",
            "nat",
            "-D",
            "PREROUTING",
            "-p",
            "tcp",
            "-j",
            "ISTIO_INBOUND",
        ],
        vec!["-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"],
    ];
    for chain in CHAINS {
        calls.push(vec!["-t", "nat", "-F", chain]);
    }
    for chain in CHAINS {
        calls.push(vec!["-t", "nat", "-X", chain]);
    }
    calls
}

/// Text for `iptables-restore --noflush` or `ip6tables-restore --noflush`.
#[must_use]
pub fn rules(plan: &Plan, family: Family) -> String {
    let mut text = String::new();
    let written = write_table(&mut text, plan, family);
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    text
}

fn write_table(out: &mut String, plan: &Plan, family: Family) -> fmt::Result {
    writeln!(out, "*nat")?;
    for chain in CHAINS {
        writeln!(out, ":{chain} - [0:0]")?;
    }
    writeln!(out, "-A PREROUTING -p tcp -j ISTIO_INBOUND")?;
    writeln!(out, "-A OUTPUT -j ISTIO_OUTPUT")?;
    writeln!(
        out,
        "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {}",
        plan.inbound_capture_port
    )?;
    writeln!(
        out,
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {}",
        plan.proxy_port
    )?;
    inbound(out, plan)?;
    output(out, plan, family)?;
    writeln!(out, "COMMIT")
}

fn inbound(out: &mut String, plan: &Plan) -> fmt::Result {
    let mut rule = |rest: String| writeln!(out, "-A ISTIO_INBOUND -p tcp {rest}");
    rule(format!("--dport {TUNNEL_PORT} -j RETURN"))?;
    match &plan.inbound {
        Which::AllBut(ports) => {
            for port in ports {
                rule(format!("--dport {port} -j RETURN"))?;
            }
            rule("-j ISTIO_IN_REDIRECT".to_owned())
        }
        Which::Only(ports) => ports
            .iter()
            .try_for_each(|port| rule(format!("--dport {port} -j ISTIO_IN_REDIRECT"))),
    }
}

fn output(out: &mut String, plan: &Plan, family: Family) -> fmt::Result {
    let localhost = family.localhost();
    if let Some(servers) = &plan.dns {
        writeln!(out, "-A ISTIO_OUTPUT -p udp --dport 53 -j ISTIO_OUTPUT_DNS")?;
        writeln!(out, "-A ISTIO_OUTPUT -p tcp --dport 53 -j ISTIO_OUTPUT_DNS")?;
        for owner in owners(plan) {
            writeln!(out, "-A ISTIO_OUTPUT_DNS -m owner {owner} -j RETURN")?;
        }
        for server in servers
            .iter()
            .map(|ip| IpNet::from(*ip))
            .filter(|net| family.has(net))
        {
            for transport in ["udp", "tcp"] {
                writeln!(
                    out,
                    "-A ISTIO_OUTPUT_DNS -p {transport} -d {server} --dport 53 -j REDIRECT --to-ports {DNS_PORT}"
                )?;
            }
        }
    }
    let mut rule = |rest: String| writeln!(out, "-A ISTIO_OUTPUT -p tcp {rest}");
    for port in &plan.exclude_outbound_ports {
        rule(format!("--dport {port} -j RETURN"))?;
    }
    rule(format!("-s {} -o lo -j RETURN", family.inbound_source()))?;
    for owner in owners(plan) {
        // The proxy calling its own pod by address goes through the inbound side, as a peer would.
        rule(format!(
            "-o lo ! -d {localhost} -m multiport ! --dports 53,{TUNNEL_PORT} -m owner {owner} -j ISTIO_IN_REDIRECT"
        ))?;
    }
    let strangers = owners(plan)
        .iter()
        .map(|owner| format!("-m owner ! {owner} "))
        .collect::<String>();
    rule(format!("-o lo {strangers}-j RETURN"))?;
    for owner in owners(plan) {
        rule(format!("-m owner {owner} -j RETURN"))?;
    }
    rule(format!("-d {localhost} -j RETURN"))?;
    if let Which::AllBut(ranges) = &plan.outbound {
        for range in ranges.iter().filter(|net| family.has(net)) {
            rule(format!("-d {range} -j RETURN"))?;
        }
    }
    for port in &plan.outbound_ports {
        rule(format!("--dport {port} -j ISTIO_REDIRECT"))?;
    }
    match &plan.outbound {
        Which::AllBut(_) => rule("-j ISTIO_REDIRECT".to_owned()),
        Which::Only(ranges) => ranges
            .iter()
            .filter(|net| family.has(net))
            .try_for_each(|range| rule(format!("-d {range} -j ISTIO_REDIRECT"))),
    }
}

/// Matches of the proxy's own processes, for `-m owner`.
fn owners(plan: &Plan) -> Vec<String> {
    let uids = plan.uids.iter().map(|id| format!("--uid-owner {id}"));
    let gids = plan.gids.iter().map(|id| format!("--gid-owner {id}"));
    uids.chain(gids).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::plan::Settings;

    #[test]
    fn the_rules_are_istios() {
        let settings = Settings {
            exclude_inbound_ports: "15090,15021,15020".into(),
            exclude_outbound_ranges: "10.1.0.0/16,fd01::/16".into(),
            redirect_dns: true,
            dns_servers: vec!["10.96.0.10".parse().unwrap()],
            ..Settings::default()
        };
        let plan = Plan::try_from(&settings).unwrap();
        expect![[r#"
            *nat
            :ISTIO_INBOUND - [0:0]
            :ISTIO_IN_REDIRECT - [0:0]
            :ISTIO_OUTPUT - [0:0]
            :ISTIO_OUTPUT_DNS - [0:0]
            :ISTIO_REDIRECT - [0:0]
            -A PREROUTING -p tcp -j ISTIO_INBOUND
            -A OUTPUT -j ISTIO_OUTPUT
            -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
            -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
            -A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
            -A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
            -A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
            -A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
            -A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
            -A ISTIO_OUTPUT -p udp --dport 53 -j ISTIO_OUTPUT_DNS
            -A ISTIO_OUTPUT -p tcp --dport 53 -j ISTIO_OUTPUT_DNS
            -A ISTIO_OUTPUT_DNS -m owner --uid-owner 1337 -j RETURN
            -A ISTIO_OUTPUT_DNS -m owner --gid-owner 1337 -j RETURN
            -A ISTIO_OUTPUT_DNS -p udp -d 10.96.0.10/32 --dport 53 -j REDIRECT --to-ports 15053
            -A ISTIO_OUTPUT_DNS -p tcp -d 10.96.0.10/32 --dport 53 -j REDIRECT --to-ports 15053
            -A ISTIO_OUTPUT -p tcp -s 127.0.0.6/32 -o lo -j RETURN
            -A ISTIO_OUTPUT -p tcp -o lo ! -d 127.0.0.1/32 -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
            -A ISTIO_OUTPUT -p tcp -o lo ! -d 127.0.0.1/32 -m multiport ! --dports 53,15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
            -A ISTIO_OUTPUT -p tcp -o lo -m owner ! --uid-owner 1337 -m owner ! --gid-owner 1337 -j RETURN
            -A ISTIO_OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN
            -A ISTIO_OUTPUT -p tcp -m owner --gid-owner 1337 -j RETURN
            -A ISTIO_OUTPUT -p tcp -d 127.0.0.1/32 -j RETURN
            -A ISTIO_OUTPUT -p tcp -d 10.1.0.0/16 -j RETURN
            -A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
            COMMIT
        "#]].assert_eq(&rules(&plan, Family::V4));
        assert!(rules(&plan, Family::V6).contains("-d fd01::/16 -j RETURN"));
    }
}
