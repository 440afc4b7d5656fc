//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod.
//!
//! Pure. Pods that want the machine's own resolver get the cluster's without search domains: it
//! forwards to the machine's, which pods cannot reach by themselves.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Names of the cluster that pods search in.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) dns: IpAddr,
    pub(super) domain: String,
}

/// The pod's host name: Linux allows 63 characters.
pub(super) fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let over = spec.and_then(|spec| spec.hostname_override.clone());
    let wished = over.or_else(|| spec.and_then(|spec| spec.hostname.clone()));
    let name = wished
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    let fqdn = spec
        .and_then(|spec| spec.set_hostname_as_fqdn)
        .unwrap_or(false);
    let cut: String = name.chars().take(63).collect();
    let short = cut.trim_end_matches(['-', '.']).to_owned();
    match (fqdn, spec.and_then(|spec| spec.subdomain.as_ref())) {
        (true, Some(subdomain)) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            format!("{short}.{subdomain}.{namespace}.svc")
        }
        _ => short,
    }
}

pub(super) fn hosts(pod: &Pod, address: IpAddr, names: &Names) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let name = hostname(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let line = match &spec.subdomain {
        Some(subdomain) => {
            format!(
                "{address}\t{name}.{subdomain}.{namespace}.svc.{}\t{name}\n",
                names.domain
            )
        }
        None => format!("{address}\t{name}\n"),
    };
    text.push_str(&line);
    for alias in spec.host_aliases.iter().flatten() {
        let all = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _infallible = writeln!(text, "{}\t{all}", alias.ip);
    }
    text
}

pub(super) fn resolv_conf(pod: &Pod, names: &Names) -> String {
    let spec: PodSpec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = &names.domain;
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let on_node = spec.host_network.unwrap_or(false) && policy == "ClusterFirst";
    let (mut servers, mut searches, mut options) = match policy {
        "None" => (Vec::new(), Vec::new(), Vec::new()),
        "Default" => (vec![names.dns.to_string()], Vec::new(), Vec::new()),
        _ if on_node => (vec![names.dns.to_string()], Vec::new(), Vec::new()),
        _ => (
            vec![names.dns.to_string()],
            vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.clone(),
            ],
            vec![("ndots".to_owned(), Some("5".to_owned()))],
        ),
    };
    let config = spec.dns_config.unwrap_or_default();
    servers.extend(config.nameservers.unwrap_or_default());
    searches.extend(config.searches.unwrap_or_default());
    for option in config.options.unwrap_or_default() {
        let name = option.name.unwrap_or_default();
        options.retain(|(known, _)| *known != name);
        options.push((name, option.value));
    }
    let mut text = String::new();
    if !searches.is_empty() {
        let _infallible = writeln!(text, "search {}", searches.join(" "));
    }
    for server in servers {
        let _infallible = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let shown: Vec<String> = options
            .into_iter()
            .map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}:{value}")))
            .collect();
        let _infallible = writeln!(text, "options {}", shown.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Names, hostname, hosts, resolv_conf};
    use k8s_openapi::api::core::v1::Pod;

    fn pod(spec: Value) -> Pod {
        let pod = json!({"metadata": {"name": "web-1", "namespace": "base"}, "spec": spec});
        serde_json::from_value(pod).unwrap()
    }

    fn names() -> Names {
        Names {
            dns: "10.96.0.10".parse().unwrap(),
            domain: "cluster.local".to_owned(),
        }
    }

    #[test]
    fn resolv_conf_searches_the_cluster_first() {
        let spec = json!({"containers": [], "dnsConfig": {"searches": ["corp"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        let wanted = "search base.svc.cluster.local svc.cluster.local cluster.local corp\n\
                      nameserver 10.96.0.10\noptions ndots:2 edns0\n";
        assert_eq!(resolv_conf(&pod(spec), &names()), wanted);
        let none = json!({"containers": [], "dnsPolicy": "None",
                          "dnsConfig": {"nameservers": ["1.1.1.1"]}});
        assert_eq!(resolv_conf(&pod(none), &names()), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let spec = json!({"containers": [], "hostname": "a", "subdomain": "web",
                          "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}]});
        let pod = pod(spec);
        let text = hosts(&pod, "10.244.0.3".parse().unwrap(), &names());
        assert!(
            text.contains("\n10.244.0.3\ta.web.base.svc.cluster.local\ta\n"),
            "{text}"
        );
        assert!(text.ends_with("1.2.3.4\tx\ty\n"), "{text}");
        assert_eq!(hostname(&pod), "a");
    }
}
