//! Settings as written, and the plan they mean.

use std::net::IpAddr;

use ipnet::IpNet;

/// Ports of the agent and proxy that are never captured: statistics, agent, readiness.
pub const AGENT_PORTS: [u16; 3] = [15090, 15021, 15020];

/// Istio's HBONE port; tunnelled traffic must reach the proxy as it is.
pub const TUNNEL_PORT: u16 = 15008;

/// Where the agent answers DNS when it is captured.
pub const DNS_PORT: u16 = 15053;

/// What a user writes: flags of `malla init`, named as `istio-iptables` names them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where outbound connections go (`-p`).
    pub proxy_port: u16,
    /// Where inbound connections go (`-z`).
    pub inbound_capture_port: u16,
    /// Users whose traffic is the proxy's own (`-u`), comma separated.
    pub proxy_uid: String,
    /// Groups likewise (`-g`).
    pub proxy_gid: String,
    /// `REDIRECT` or `TPROXY` (`-m`).
    pub mode: String,
    /// Marks what belongs to the proxy where the mode is `TPROXY` (`-t`).
    pub tproxy_mark: u32,
    /// The routing table that brings it there (`-r`).
    pub tproxy_route_table: u32,
    /// `*`, or a comma-separated list of ports (`-b`); empty captures nothing.
    pub inbound_ports: String,
    /// Exceptions from `*` (`-d`).
    pub exclude_inbound_ports: String,
    /// `*`, or a comma-separated list of CIDRs (`-i`).
    pub outbound_ranges: String,
    pub exclude_outbound_ranges: String,
    /// Captured whatever their address (`-q`).
    pub outbound_ports: String,
    pub exclude_outbound_ports: String,
    /// Send DNS queries to the agent.
    pub redirect_dns: bool,
    /// Resolvers of the pod, whose queries are captured.
    pub dns_servers: Vec<IpAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            proxy_port: 15001,
            inbound_capture_port: 15006,
            proxy_uid: "1337".to_owned(),
            proxy_gid: "1337".to_owned(),
            mode: "REDIRECT".to_owned(),
            tproxy_mark: 1337,
            tproxy_route_table: 133,
            inbound_ports: "*".to_owned(),
            exclude_inbound_ports: String::new(),
            outbound_ranges: "*".to_owned(),
            exclude_outbound_ranges: String::new(),
            outbound_ports: String::new(),
            exclude_outbound_ports: String::new(),
            redirect_dns: false,
            dns_servers: Vec::new(),
        }
    }
}

/// A setting that means nothing, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {value:?} is not {expected}")]
pub struct BadSetting {
    pub setting: &'static str,
    pub value: String,
    pub expected: &'static str,
}

/// Everything, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which<T> {
    AllBut(Vec<T>),
    Only(Vec<T>),
}

/// How inbound connections get to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Their destination is rewritten.
    Redirect,
    /// They are handed over as they are, and the workload sees its clients' addresses.
    Tproxy {
        /// Marks packets that belong to the proxy.
        mark: u32,
        /// The routing table that makes every destination local for them.
        table: u32,
    },
}

/// What to capture, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub mode: Mode,
    pub proxy_port: u16,
    pub inbound_capture_port: u16,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub inbound: Which<u16>,
    pub outbound: Which<IpNet>,
    pub outbound_ports: Vec<u16>,
    pub exclude_outbound_ports: Vec<u16>,
    /// `None` leaves DNS alone.
    pub dns: Option<Vec<IpAddr>>,
}

impl TryFrom<&Settings> for Plan {
    type Error = BadSetting;

    fn try_from(raw: &Settings) -> Result<Self, BadSetting> {
        let mode = match raw.mode.as_str() {
            "REDIRECT" => Mode::Redirect,
            "TPROXY" if raw.tproxy_mark == 0 => {
                return Err(BadSetting {
                    setting: "tproxy mark",
                    value: "0".to_owned(),
                    expected: "a mark that packets do not have by themselves",
                });
            }
            "TPROXY" => Mode::Tproxy {
                mark: raw.tproxy_mark,
                table: raw.tproxy_route_table,
            },
            _ => {
                return Err(BadSetting {
                    setting: "interception mode",
                    value: raw.mode.clone(),
                    expected: "REDIRECT or TPROXY (NONE needs no init step)",
                });
            }
        };
        let excluded = ports("exclude inbound ports", &raw.exclude_inbound_ports)?;
        let inbound = if raw.inbound_ports.trim() == "*" {
            Which::AllBut(excluded)
        } else {
            let mut only = ports("inbound ports", &raw.inbound_ports)?;
            only.retain(|port| !excluded.contains(port));
            Which::Only(only)
        };
        let exclude_ranges = ranges("exclude outbound ranges", &raw.exclude_outbound_ranges)?;
        let outbound = if raw.outbound_ranges.trim() == "*" {
            Which::AllBut(exclude_ranges)
        } else {
            Which::Only(ranges("outbound ranges", &raw.outbound_ranges)?)
        };
        Ok(Self {
            mode,
            proxy_port: raw.proxy_port,
            inbound_capture_port: raw.inbound_capture_port,
            uids: ids("proxy uid", &raw.proxy_uid)?,
            gids: ids("proxy gid", &raw.proxy_gid)?,
            inbound,
            outbound,
            outbound_ports: ports("outbound ports", &raw.outbound_ports)?,
            exclude_outbound_ports: ports("exclude outbound ports", &raw.exclude_outbound_ports)?,
            dns: raw.redirect_dns.then(|| raw.dns_servers.clone()),
        })
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn ports(setting: &'static str, text: &str) -> Result<Vec<u16>, BadSetting> {
    let bad = |item: &str| BadSetting {
        setting,
        value: item.to_owned(),
        expected: "a port number from 1 to 65535",
    };
    items(text)
        .map(|item| {
            item.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| bad(item))
        })
        .collect()
}

fn ranges(setting: &'static str, text: &str) -> Result<Vec<IpNet>, BadSetting> {
    let bad = |item: &str| BadSetting {
        setting,
        value: item.to_owned(),
        expected: "a CIDR such as 10.0.0.0/8",
    };
    items(text)
        .map(|item| {
            item.parse::<IpNet>()
                .or_else(|_| item.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| bad(item))
        })
        .collect()
}

fn ids(setting: &'static str, text: &str) -> Result<Vec<u32>, BadSetting> {
    let bad = |item: &str| BadSetting {
        setting,
        value: item.to_owned(),
        expected: "a numeric user or group id",
    };
    items(text)
        .map(|item| item.parse().map_err(|_| bad(item)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_capture_everything() {
        let plan = Plan::try_from(&Settings::default()).unwrap();
        assert_eq!(plan.inbound, Which::AllBut(vec![]));
        assert_eq!(plan.outbound, Which::AllBut(vec![]));
        assert_eq!(plan.uids, [1337]);
    }

    #[test]
    fn bad_settings_are_named() {
        let check = |change: fn(&mut Settings), want: &str| {
            let mut raw = Settings::default();
            change(&mut raw);
            assert_eq!(Plan::try_from(&raw).unwrap_err().to_string(), want);
        };
        check(
            |s| s.exclude_inbound_ports = "80,http".into(),
            "exclude inbound ports: \"http\" is not a port number from 1 to 65535",
        );
        check(
            |s| s.outbound_ranges = "10.0.0.0/33".into(),
            "outbound ranges: \"10.0.0.0/33\" is not a CIDR such as 10.0.0.0/8",
        );
        check(
            |s| s.proxy_uid = "proxy".into(),
            "proxy uid: \"proxy\" is not a numeric user or group id",
        );
        check(
            |s| s.mode = "NONE".into(),
            "interception mode: \"NONE\" is not REDIRECT or TPROXY (NONE needs no init step)",
        );
    }
}
