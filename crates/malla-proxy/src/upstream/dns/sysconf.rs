//! Parses `/etc/hosts` and `/etc/resolv.conf` (hosts(5), resolv.conf(5)). Lines that make no sense are skipped, as libc does.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use malla_proxy_config::cluster::DnsResolver;

/// The settings of `resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
    /// Names with at least so many dots are tried as they are first.
    pub(super) ndots: usize,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    /// Servers are asked over TCP alone.
    pub(super) tcp: bool,
}

/// glibc's limit.
const MAX_SERVERS: usize = 3;
const DNS_PORT: u16 = 53;

impl ResolvConf {
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp: false,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < MAX_SERVERS => {
                    let address = words
                        .next()
                        .and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                    conf.servers
                        .extend(address.map(|ip| SocketAddr::new(ip, DNS_PORT)));
                }
                Some("search" | "domain") => {
                    conf.search = words
                        .map(|word| word.trim_end_matches('.').to_owned())
                        .collect()
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers
                .push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT));
        }
        conf
    }

    /// Takes over what a configuration says.
    pub(super) fn change(&mut self, settings: &DnsResolver) {
        let unnamed = self.servers == [SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT)];
        if !settings.servers.is_empty() && (unnamed || !settings.fallback) {
            self.servers.clone_from(&settings.servers);
        }
        if settings.no_search {
            self.search.clear();
        }
        self.timeout = settings.timeout.unwrap_or(self.timeout);
        self.attempts = settings.tries.unwrap_or(self.attempts);
        self.tcp = settings.tcp;
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u32>() else {
            return;
        };
        match name {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The full names to ask for, in order.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let dots = name.bytes().filter(|&byte| byte == b'.').count();
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        if dots >= self.ndots {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(name.to_owned())).collect()
        }
    }
}

/// The names to ask for `name`, and the addresses it has already, by a text that is both files, for `fuzz/`.
#[cfg(fuzzing)]
pub fn looked_up(text: &str, name: &str) -> (Vec<String>, Vec<IpAddr>) {
    (ResolvConf::parse(text).candidates(name), hosts(text, name))
}

/// The addresses `/etc/hosts` has for a name.
pub(super) fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    text.lines()
        .filter_map(|line| {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Duration, ResolvConf, hosts};

    const POD: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
        nameserver 10.96.0.10 # cluster DNS\noptions ndots:5 timeout:2 rotate\n";

    #[test]
    fn a_pods_settings_are_read() {
        let conf = ResolvConf::parse(POD);
        assert_eq!(conf.servers, ["10.96.0.10:53".parse().unwrap()]);
        assert_eq!(
            (conf.ndots, conf.timeout, conf.attempts),
            (5, Duration::from_secs(2), 2)
        );
        assert_eq!(
            conf.candidates("cart.shop"),
            [
                "cart.shop.shop.svc.cluster.local",
                "cart.shop.svc.cluster.local",
                "cart.shop.cluster.local",
                "cart.shop"
            ]
        );
        assert_eq!(conf.candidates("example.com."), ["example.com"]);
        assert_eq!(
            ResolvConf::parse("").candidates("example.com"),
            ["example.com"]
        );
    }

    #[test]
    fn hosts_lines_name_several_names() {
        let text = "127.0.0.1 localhost\n10.0.0.1 web web.local # the web\nnonsense web\n::1 WEB\n";
        assert_eq!(
            hosts(text, "web."),
            [
                "10.0.0.1".parse::<std::net::IpAddr>().unwrap(),
                "::1".parse().unwrap()
            ]
        );
        assert!(hosts(text, "the").is_empty());
    }
}
