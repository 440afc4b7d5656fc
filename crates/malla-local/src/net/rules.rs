//! Service VIPs as nftables rules: what the rules must say, and the smallest change to get there.
//!
//! A lookup of destination, protocol and port in one map leads to a chain per Service port, which
//! rewrites the destination to one of the ready endpoints, each as likely as the others. Whatever
//! still has a Service address as its destination afterwards is refused. Connections that exist
//! keep their endpoint: conntrack remembers it.
//!
//! Pure: values in, a script for `nft -f` out, which nft applies as one transaction.

#[cfg(test)]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::egress::EGRESS_PORT;

/// Name of the table in the node's namespace.
pub const TABLE: &str = "malla-services";

/// Transport protocols of Service ports. SCTP is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// An address that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub address: Ipv4Addr,
    pub transport: Transport,
    pub port: u16,
}

/// Where a frontend's connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends {
    /// Ready endpoints. Empty: connections are refused.
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// `sessionAffinity: ClientIP`: seconds a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
}

/// All Services at one moment.
pub type Services = BTreeMap<Frontend, Backends>;

/// The addresses of a cluster.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub services: Ipv4Net,
    /// The node's own.
    pub node: Ipv4Addr,
    /// Ranges of pods: the node's own, and those of clusters it is linked with.
    pub pods: Vec<Ipv4Net>,
}

/// The part that never changes: hooks, the way out, and the refusal of unserved Service addresses.
pub fn base(addresses: &Addresses) -> String {
    let Addresses { services, node, .. } = addresses;
    let pods: Vec<String> = addresses
        .pods
        .iter()
        .map(|range| format!("{range}, "))
        .collect();
    let pods = pods.concat();
    format!(
        "table ip {TABLE} {{
  map frontends {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  set inside {{
    type ipv4_addr; flags interval; auto-merge
    elements = {{ {pods}{services}, {node}/32, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }}
  }}
  set hairpins {{ type ipv4_addr . ipv4_addr; }}
  chain prerouting {{
    type nat hook prerouting priority -100;
    ip daddr . meta l4proto . th dport vmap @frontends
    ip daddr != @inside meta l4proto tcp dnat to {node}:{EGRESS_PORT}
  }}
  chain output {{
    type nat hook output priority -100;
    ip daddr . meta l4proto . th dport vmap @frontends
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    ct status dnat ip saddr . ip daddr @hairpins snat to {node}
  }}
  chain forward {{
    type filter hook forward priority 0;
    ip daddr {services} goto unserved
  }}
  chain local {{
    type filter hook output priority 0;
    ip daddr {services} goto unserved
  }}
  chain unserved {{
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }}
}}
"
    )
}

/// The script that turns the rules of `old` into those of `new`; empty when there is nothing to do.
pub fn change(old: &Services, new: &Services) -> String {
    let (before, after) = (Rendered::of(old), Rendered::of(new));
    let mut script = Script(String::new());
    // References go before what they refer to, and come after it.
    for (name, portal) in &before.portals {
        if !after.portals.contains_key(name) {
            let key = &portal.key;
            script.line(format_args!(
                "delete element ip {TABLE} frontends {{ {key} }}"
            ));
        }
    }
    for (name, portal) in &after.portals {
        let known = before.portals.get(name);
        if known == Some(portal) {
            continue;
        }
        script.build(portal, known);
        if known.is_none() {
            let key = &portal.key;
            script.line(format_args!(
                "add element ip {TABLE} frontends {{ {key} : goto {name} }}"
            ));
        }
    }
    let nothing = Portal::default();
    for (name, portal) in &before.portals {
        script.remove_leftovers(portal, after.portals.get(name).unwrap_or(&nothing));
    }
    for pod in before.hairpins.difference(&after.hairpins) {
        script.line(format_args!(
            "delete element ip {TABLE} hairpins {{ {pod} . {pod} }}"
        ));
    }
    for pod in after.hairpins.difference(&before.hairpins) {
        script.line(format_args!(
            "add element ip {TABLE} hairpins {{ {pod} . {pod} }}"
        ));
    }
    script.0
}

struct Script(String);

impl Script {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let _infallible = writeln!(self.0, "{text}");
    }

    /// Writes all chains of a portal anew; sets are kept, for they remember clients.
    fn build(&mut self, portal: &Portal, known: Option<&Portal>) {
        for (set, seconds) in &portal.sets {
            if known.is_none_or(|known| !known.sets.contains_key(set)) {
                self.line(format_args!(
                    "add set ip {TABLE} {set} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; }}"
                ));
            }
        }
        for (chain, _) in &portal.chains {
            self.line(format_args!("add chain ip {TABLE} {chain}"));
            self.line(format_args!("flush chain ip {TABLE} {chain}"));
        }
        for (chain, rules) in &portal.chains {
            for rule in rules {
                self.line(format_args!("add rule ip {TABLE} {chain} {rule}"));
            }
        }
    }

    fn remove_leftovers(&mut self, before: &Portal, after: &Portal) {
        let kept = |chain: &str| after.chains.iter().any(|(name, _)| name == chain);
        let leftover = || before.chains.iter().filter(|(chain, _)| !kept(chain));
        for (chain, _) in leftover() {
            self.line(format_args!("flush chain ip {TABLE} {chain}"));
        }
        for (chain, _) in leftover() {
            self.line(format_args!("delete chain ip {TABLE} {chain}"));
        }
        for set in before.sets.keys() {
            if !after.sets.contains_key(set) {
                self.line(format_args!("delete set ip {TABLE} {set}"));
            }
        }
    }
}

/// The chains and sets of one frontend that has endpoints.
#[derive(Debug, Default, PartialEq, Eq)]
struct Portal {
    /// Key in the map of frontends.
    key: String,
    chains: Vec<(String, Vec<String>)>,
    /// Set name to seconds.
    sets: BTreeMap<String, u32>,
}

#[derive(Debug, Default)]
struct Rendered {
    /// By the name of the portal's first chain.
    portals: BTreeMap<String, Portal>,
    hairpins: BTreeSet<Ipv4Addr>,
}

impl Rendered {
    fn of(services: &Services) -> Self {
        let mut rendered = Self::default();
        for (frontend, backends) in services {
            if backends.endpoints.is_empty() {
                continue;
            }
            let name = format!(
                "{}-{:08x}-{}",
                frontend.transport.word(),
                u32::from(frontend.address),
                frontend.port
            );
            let portal = Portal::new(&name, frontend, backends);
            rendered.portals.insert(name, portal);
            let pods = backends.endpoints.iter().map(|endpoint| *endpoint.ip());
            rendered.hairpins.extend(pods);
        }
        rendered
    }
}

impl Portal {
    fn new(name: &str, frontend: &Frontend, backends: &Backends) -> Self {
        let transport = frontend.transport.word();
        let mut portal = Self {
            key: format!("{} . {transport} . {}", frontend.address, frontend.port),
            ..Self::default()
        };
        match backends.affinity_seconds {
            None => {
                let rule = balance(transport, &backends.endpoints);
                portal.chains.push((name.to_owned(), vec![rule]));
            }
            Some(seconds) => portal.stick(name, transport, &backends.endpoints, seconds),
        }
        portal
    }

    /// A chain and a set of clients for each endpoint; new clients go to any.
    fn stick(
        &mut self,
        name: &str,
        transport: &str,
        endpoints: &BTreeSet<SocketAddrV4>,
        seconds: u32,
    ) {
        let mut entry = Vec::new();
        let mut choices = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let (ip, port) = (u32::from(*endpoint.ip()), endpoint.port());
            let chain = format!("{name}-{ip:08x}-{port}");
            let set = format!("{chain}-{seconds}");
            entry.push(format!("ip saddr @{set} goto {chain}"));
            choices.push(format!("{index} : goto {chain}"));
            let remember = format!("update @{set} {{ ip saddr }}");
            let rewrite = format!("meta l4proto {transport} dnat to {endpoint}");
            self.chains.push((chain, vec![remember, rewrite]));
            self.sets.insert(set, seconds);
        }
        let (count, choices) = (choices.len(), choices.join(", "));
        entry.push(format!("numgen random mod {count} vmap {{ {choices} }}"));
        self.chains.insert(0, (name.to_owned(), entry));
    }
}

fn balance(transport: &str, endpoints: &BTreeSet<SocketAddrV4>) -> String {
    if let (1, Some(only)) = (endpoints.len(), endpoints.first()) {
        return format!("meta l4proto {transport} dnat to {only}");
    }
    let choices: Vec<String> = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| format!("{index} : {} . {}", endpoint.ip(), endpoint.port()))
        .collect();
    let (count, choices) = (choices.len(), choices.join(", "));
    format!(
        "meta l4proto {transport} dnat ip addr . port to numgen random mod {count} map {{ {choices} }}"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Backends, Frontend, Services, Transport, change};

    fn services(entries: &[(&str, &[&str], Option<u32>)]) -> Services {
        let entry = |(address, endpoints, affinity_seconds): &(&str, &[&str], Option<u32>)| {
            let frontend = Frontend {
                address: address.parse().unwrap(),
                transport: Transport::Tcp,
                port: 80,
            };
            let endpoints: BTreeSet<_> = endpoints.iter().map(|e| e.parse().unwrap()).collect();
            let affinity_seconds = *affinity_seconds;
            let backends = Backends {
                endpoints,
                affinity_seconds,
            };
            (frontend, backends)
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn nothing_changed_is_an_empty_script() {
        let same = services(&[("10.96.0.2", &["10.244.0.2:7000"], None)]);
        assert_eq!(change(&same, &same), "");
    }

    #[test]
    fn endpoints_share_a_frontend_evenly() {
        let two = services(&[("10.96.0.2", &["10.244.0.2:70", "10.244.0.3:70"], None)]);
        let script = change(&Services::new(), &two);
        let wanted = "dnat ip addr . port to numgen random mod 2 map { 0 : 10.244.0.2 . 70, 1 : 10.244.0.3 . 70 }";
        assert!(script.contains(wanted), "{script}");
    }

    #[test]
    fn a_frontend_without_endpoints_leaves_the_map_before_its_chain_goes() {
        let one = services(&[("10.96.0.2", &["10.244.0.2:70"], None)]);
        let none = services(&[("10.96.0.2", &[], None)]);
        let script = change(&one, &none);
        let lines: Vec<_> = script
            .lines()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(lines, ["delete", "flush", "delete", "delete"], "{script}");
        assert!(script.starts_with("delete element"), "{script}");
    }

    #[test]
    fn clients_of_a_kept_endpoint_are_remembered() {
        let two = services(&[("10.96.0.2", &["10.244.0.2:70", "10.244.0.3:70"], Some(9))]);
        let one = services(&[("10.96.0.2", &["10.244.0.3:70"], Some(9))]);
        let script = change(&two, &one);
        let sets: Vec<_> = script
            .lines()
            .filter(|line| line.contains(" set "))
            .collect();
        let gone = "delete set ip malla-services tcp-0a600002-80-0af40002-70-9";
        assert_eq!(sets, [gone]);
    }
}
