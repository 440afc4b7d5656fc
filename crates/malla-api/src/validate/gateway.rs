//! Gateway.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Subject, names};
use crate::istio::gateway::{GatewaySpec, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};
use crate::lower::gateway::server_protocol;
use crate::report::Report;

pub(super) fn check(spec: &GatewaySpec, subject: &Subject<'_>, report: &mut Report) {
    if !subject.name.is_empty() && !names::is_dns_label(subject.name) {
        report
            .error(
                "metadata.name",
                "a Gateway's name may hold only letters, digits and -",
            )
            .value(format!("{:?}", subject.name))
            .done();
    }
    if spec.servers.is_empty() {
        report
            .error("spec.servers", "needs at least one server")
            .done();
    }
    let mut port_names = BTreeSet::new();
    for (at, server) in spec.servers.iter().enumerate() {
        let path = format!("spec.servers[{at}]");
        check_server(server, &path, report);
        let name = server
            .port
            .as_ref()
            .map(|port| port.name.as_str())
            .unwrap_or_default();
        if !name.is_empty() && !port_names.insert(name) {
            report
                .error(
                    format!("{path}.port.name"),
                    "another server has this port name",
                )
                .value(format!("{name:?}"))
                .fix("give each server's port its own name");
        }
    }
}

fn check_server(server: &Server, path: &str, report: &mut Report) {
    if server.hosts.is_empty() {
        report
            .error(format!("{path}.hosts"), "needs at least one host")
            .fix("use \"*\" for every host");
    }
    for (at, host) in server.hosts.iter().enumerate() {
        names::server_host(host, &format!("{path}.hosts[{at}]"), report);
    }
    let bind = server.bind.as_deref().unwrap_or_default();
    let on_socket = bind.starts_with("unix://");
    if !bind.is_empty() && !on_socket && bind.parse::<IpAddr>().is_err() {
        report
            .error(
                format!("{path}.bind"),
                "is neither an IP address nor unix:///path",
            )
            .value(format!("{bind:?}"))
            .done();
    }
    if let Some(tls) = &server.tls {
        check_tls(tls, &format!("{path}.tls"), report);
    }
    let Some(port) = &server.port else { return };
    match (on_socket, port.number) {
        (true, 0) => {}
        (true, _) => report
            .error(format!("{path}.port.number"), "must be 0 on a socket")
            .done(),
        (false, number) => names::port(number, &format!("{path}.port.number"), report),
    }
    if port.target_port.is_some_and(|port| port != 0) {
        report
            .error(
                format!("{path}.port.targetPort"),
                "has no effect on Gateways",
            )
            .fix("remove it");
    }
    if port.name.is_empty() {
        report
            .error(format!("{path}.port.name"), "is required")
            .done();
    }
    match server_protocol(&port.protocol) {
        None => report
            .error(
                format!("{path}.port.protocol"),
                "is not a protocol a Gateway serves",
            )
            .value(format!("{:?}", port.protocol))
            .fix("use HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, TLS, TCP or MONGO"),
        Some(protocol) => protocol_and_tls(protocol, server, path, report),
    }
}

fn protocol_and_tls(
    protocol: malla_model::Protocol,
    server: &Server,
    path: &str,
    report: &mut Report,
) {
    let tls_path = format!("{path}.tls");
    match &server.tls {
        None if protocol.is_tls() => report
            .error(&tls_path, "is required by HTTPS and TLS")
            .fix("add tls with mode and credentialName"),
        Some(tls) if !protocol.is_tls() => {
            let redirect_only = tls
                .mode
                .is_none_or(|mode| mode == ServerTlsMode::Passthrough)
                && [
                    &tls.server_certificate,
                    &tls.private_key,
                    &tls.ca_certificates,
                ]
                .iter()
                .all(|file| file.as_deref().unwrap_or_default().is_empty());
            if !(protocol.is_http() && redirect_only) {
                report
                    .error(
                        &tls_path,
                        "a plain-text port has no TLS settings but httpsRedirect",
                    )
                    .fix("use protocol HTTPS, or remove tls");
            }
        }
        _ => {}
    }
    let redirects = server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
    if redirects && !protocol.is_http() {
        report
            .warn(
                format!("{tls_path}.httpsRedirect"),
                "only has a meaning on HTTP ports",
            )
            .done();
    }
}

fn check_tls(tls: &ServerTlsSettings, path: &str, report: &mut Report) {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let files = [
        (&tls.server_certificate, "serverCertificate"),
        (&tls.private_key, "privateKey"),
        (&tls.ca_certificates, "caCertificates"),
    ];
    let old = [Some(TlsProtocol::V1_0), Some(TlsProtocol::V1_1)];
    if old.contains(&tls.min_protocol_version) && tls.cipher_suites.is_empty() {
        report
            .warn(
                format!("{path}.minProtocolVersion"),
                "TLS below 1.2 needs compatible ciphers",
            )
            .fix("set cipherSuites, or use TLSV1_2");
    }
    let by_secret = set(&tls.credential_name)
        || !tls.credential_names.is_empty()
        || !tls.tls_certificates.is_empty();
    let required: &[&str] = match tls.mode {
        Some(ServerTlsMode::IstioMutual) => {
            let credential = [(&tls.credential_name, "credentialName")];
            for (_, name) in files
                .iter()
                .chain(&credential)
                .filter(|(value, _)| set(value))
            {
                report
                    .error(
                        format!("{path}.{name}"),
                        "ISTIO_MUTUAL uses the mesh's own certificates",
                    )
                    .fix("remove it, or use MUTUAL");
            }
            return;
        }
        None | Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough) => {
            if files.iter().any(|(value, _)| set(value)) || by_secret {
                report
                    .warn(path, "passes TLS through, so the certificates are not used")
                    .fix("set mode: SIMPLE to terminate TLS here");
            }
            return;
        }
        Some(ServerTlsMode::Simple) => &["serverCertificate", "privateKey"],
        Some(ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual) => {
            &["serverCertificate", "privateKey", "caCertificates"]
        }
    };
    if by_secret {
        return;
    }
    for (value, name) in files {
        if required.contains(&name) && !set(value) {
            report
                .error(format!("{path}.{name}"), "is required")
                .fix("or name a Secret in credentialName");
        }
    }
}
