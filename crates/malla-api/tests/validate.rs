//! What is refused, what is warned of, and which fix is named.

#![allow(clippy::unwrap_used)] // a test says what went wrong by failing

mod support;

use malla_api::analyze::Level;
use malla_api::{Kind, Report, World, analyze, validate};
use serde_json::{Value, json};
use support::yaml;

fn report(kind: Kind, spec: &str) -> Report {
    let object = json!({
        "apiVersion": format!("{}/{}", kind.group(), kind.storage_version()),
        "kind": kind.name(),
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": yaml(spec),
    });
    validate(kind, &object)
}

/// Errors begin with `E `, warnings with `W `.
#[track_caller]
fn check(kind: Kind, spec: &str, want: &[&str]) {
    let report = report(kind, spec);
    let errors = report.errors.iter().map(|problem| format!("E {problem}"));
    let warnings = report.warnings.iter().map(|problem| format!("W {problem}"));
    let got: Vec<String> = errors.chain(warnings).collect();
    assert_eq!(got, want, "{spec}");
}

#[test]
fn the_quickstarts_odd_spellings_are_refused_with_the_fix() {
    check(
        Kind::Gateway,
        "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.*']}]}",
        &[
            "E spec.servers[0].hosts[0]: \"*.*\": may hold a wildcard only as its first label; use \"*\" for every host",
        ],
    );
    check(
        Kind::VirtualService,
        "
hosts: [stock]
http: [{route: [{destination: {host: stock}}]}]
fault: {delay: {fixedDelay: 7000ms, percentage: {value: 100}}}
",
        &["E spec.fault: unknown field; did you mean spec.http[].fault?"],
    );
    check(
        Kind::VirtualService,
        "
hosts: [order]
http:
- match:
  - headers: {cookie: {exact: vip=false}}
    route: [{destination: {host: order, subset: v1}}]
",
        &[
            "E spec.http[0].match[0].route: unknown field; did you mean spec.http[].route?",
            "E spec.http[0]: says nowhere for requests to go; add route, redirect or directResponse beside match",
        ],
    );
    check(
        Kind::VirtualService,
        "{hosts: [order], http: [{match: [{headers: {cookie: null, exact: vip=false}}], route: [{destination: {host: order}}]}]}",
        &[
            "E spec.http[0].match[0].headers.exact: \"vip=false\": expected a mapping (fields, indented below)",
        ],
    );
    check(
        Kind::DestinationRule,
        "{host: cart, trafficPolicy: {outlierDetection: {consecutiveErrors: 5, interval: 10000ms}}}",
        &[
            "W spec.trafficPolicy.outlierDetection.consecutiveErrors: is deprecated; Malla reads it as consecutiveGatewayErrors, current Istio ignores it; use consecutiveGatewayErrors (502, 503, 504) or consecutive5xxErrors",
        ],
    );
}

#[test]
fn a_field_at_the_root_is_told_where_it_belongs() {
    let object = json!({"metadata": {"name": "a"}, "labels": {}, "http": [],
        "spec": {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]}});
    let report = validate(Kind::VirtualService, &object);
    let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "labels: unknown field; did you mean metadata.labels?",
            "http: unknown field; did you mean spec.http?",
        ]
    );
}

#[test]
fn slips_of_the_pen_are_recognised() {
    check(
        Kind::VirtualService,
        "{host: [a], hosts: [a], http: [{route: [{destination: {host: a}}], retry: {attempts: 1}}]}",
        &[
            "E spec.host: unknown field; did you mean spec.hosts?",
            "E spec.http[0].retry: unknown field",
        ],
    );
    check(
        Kind::PeerAuthentication,
        "{mtls: {mode: STRCT}}",
        &[
            "E spec.mtls.mode: \"STRCT\": is none of UNSET, DISABLE, PERMISSIVE, STRICT; did you mean STRICT?",
        ],
    );
}

#[test]
fn virtual_services() {
    let route = "route: [{destination: {host: a}}]";
    let with = |rest: &str| format!("{{hosts: [a], http: [{{{route}, {rest}}}]}}");
    for (spec, want) in [
        (with("timeout: soon"), "E spec.http[0].timeout: \"soon\": is not a duration; write it as 500ms, 7s, 1.5s or 1h"),
        (with("timeout: 100us"), "E spec.http[0].timeout: \"100us\": must be at least 1ms; remove it for the default"),
        (with("match: [{port: 70000}]"), "E spec.http[0].match[0].port: 70000: must be a port, 1 to 65535"),
        (with("redirect: {uri: /x}"), "E spec.http[0]: holds route and redirect at once; keep only one of them"),
        (with("fault: {}"), "E spec.http[0].fault: injects nothing; add delay or abort"),
        (with("fault: {abort: {httpStatus: 503}}"), "W spec.http[0].fault.abort: has no percentage, so it is never injected; add percentage: {value: 100}"),
        (with("retries: {attempts: 2, retryOn: 'oops'}"), "E spec.http[0].retries.retryOn: \"oops\": holds a condition Envoy does not know; use conditions such as 5xx, reset, connect-failure, or status codes"),
        (with("match: [{uri: {exact: /a, prefix: /b}}]"), "E spec.http[0].match[0].uri: only one of exact, prefix may be set; remove all but one"),
        ("{hosts: [a]}".into(), "E spec: has no routes; add http, tls or tcp with at least one route"),
        (format!("{{hosts: ['*'], http: [{{{route}}}]}}"), "E spec.hosts[0]: \"*\": every host at once is only for gateways, and this VirtualService applies to sidecars; name the services, or name a Gateway in spec.gateways (without mesh)"),
        (format!("{{hosts: [a.com, '*.com'], http: [{{{route}}}]}}"), "E spec.hosts[1]: \"*.com\": is already covered by \"a.com\" above; keep only one of them"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}".into(), "E spec.http[0].route: the weights sum up to 0, so no request would go anywhere; give the destinations weights, such as 50 and 50"),
        ("{hosts: [a], http: [{route: [{destination: {subset: v1}}]}]}".into(), "E spec.http[0].route[0].destination.host: is required"),
        (format!("{{hosts: [a], exportTo: [x, '*'], http: [{{{route}}}]}}"), "E spec.exportTo: \"*\" is everybody, so it stands alone; write only [\"*\"], or remove it"),
        ("{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: a}}]}]}".into(), "E spec.tls[0].match[0].sniHosts[0]: \"b.com\": is not within any of the hosts: a.com; add it to spec.hosts"),
    ] {
        check(Kind::VirtualService, &spec, &[want]);
    }
    check(
        Kind::VirtualService,
        "{hosts: ['*'], gateways: [front], http: [{route: [{destination: {host: a}}]}]}",
        &[],
    );
    let got = report(Kind::VirtualService, &with("match: [{uri: {regex: '(a'}}]"));
    let text = got.errors[0].to_string();
    assert!(
        text.starts_with("spec.http[0].match[0].uri.regex: \"(a\": is not a regular expression ("),
        "{text}"
    );
}

#[test]
fn rules_that_no_request_reaches() {
    check(
        Kind::VirtualService,
        "
hosts: [a]
http:
- match: [{uri: {prefix: /api}}]
  route: [{destination: {host: a}}]
- match: [{uri: {prefix: /api}}]
  name: again
  route: [{destination: {host: b}}]
- match: [{uri: {prefix: /api/v2}}]
  route: [{destination: {host: c}}]
- route: [{destination: {host: d}}]
- match: [{uri: {exact: /}}]
  route: [{destination: {host: e}}]
- route: [{destination: {host: f}}]
",
        &[
            "W spec.http[1].match[0]: VirtualService rule \"again\" match #0 is not used (duplicate/overlapping match in rule #0).",
            "W spec.http[1]: VirtualService rule \"again\" not used (all matches used by prior rules).",
            "W spec.http[2].match[0]: VirtualService rule #2 match #0 is not used (duplicate/overlapping match in rule #0 of prefix /api on #0).",
            "W spec.http[4]: VirtualService rule #4 not used (a rule above has no matches, so it takes every request).",
            "W spec.http[5]: VirtualService rule #5 not used (only the last rule can have no matches).",
        ],
    );
}

#[test]
fn destination_rules() {
    for (spec, want) in [
        ("{host: ''}", "E spec.host: is required"),
        (
            "{host: a, trafficPolicy: {}}",
            "E spec.trafficPolicy: is empty; set at least one field, or remove it",
        ),
        (
            "{host: a, subsets: [{name: v1}, {name: v1}]}",
            "E spec.subsets[1].name: \"v1\": another subset above has this name; rename one of them",
        ),
        (
            "{host: a, subsets: [{name: V_1}]}",
            "E spec.subsets[0].name: \"V_1\": is not a subset's name; use letters, digits and -, at most 63",
        ),
        (
            "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}}",
            "E spec.trafficPolicy.loadBalancer: only one of simple, consistentHash may be set; remove all but one",
        ),
        (
            "{host: a, trafficPolicy: {connectionPool: {http: {maxRetries: -1}}}}",
            "E spec.trafficPolicy.connectionPool.http.maxRetries: -1: is negative; remove it for no limit",
        ),
        (
            "{host: a, trafficPolicy: {connectionPool: {http: {maxRetries: 5000000000}}}}",
            "E spec.trafficPolicy.connectionPool.http.maxRetries: 5000000000: does not fit 32 bits",
        ),
        (
            "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}}}",
            "E spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: 100: must be a prime below 5000011; use 65537",
        ),
        (
            "{host: a, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /a}}}",
            "E spec.trafficPolicy.tls.privateKey: is required by MUTUAL",
        ),
    ] {
        check(Kind::DestinationRule, spec, &[want]);
    }
}

#[test]
fn gateways() {
    let server = |rest: &str| {
        format!(
            "{{servers: [{{port: {{number: 443, name: x, protocol: HTTPS}}, hosts: [a.com], {rest}}}]}}"
        )
    };
    for (spec, want) in [
        ("{}".to_owned(), "E spec.servers: needs at least one server"),
        (
            server(""),
            "E spec.servers[0].tls: is required by HTTPS and TLS; add tls with mode and credentialName",
        ),
        (
            server("tls: {mode: SIMPLE, serverCertificate: /c}"),
            "E spec.servers[0].tls.privateKey: is required; or name a Secret in credentialName",
        ),
        (
            server("tls: {mode: PASSTHROUGH, credentialName: c}"),
            "W spec.servers[0].tls: passes TLS through, so the certificates are not used; set mode: SIMPLE to terminate TLS here",
        ),
        (
            "{servers: [{port: {number: 80, name: x, protocol: HTTP}, hosts: []}]}".to_owned(),
            "E spec.servers[0].hosts: needs at least one host; use \"*\" for every host",
        ),
        (
            "{servers: [{port: {number: 80, name: x, protocol: GOPHER}, hosts: ['*']}]}".to_owned(),
            "E spec.servers[0].port.protocol: \"GOPHER\": is not a protocol a Gateway serves; use HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, TLS, TCP or MONGO",
        ),
    ] {
        check(Kind::Gateway, &spec, &[want]);
    }
    check(
        Kind::Gateway,
        &server("tls: {mode: SIMPLE, credentialName: c}"),
        &[],
    );
}

#[test]
fn service_entries() {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
    for (rest, want) in [
        (
            "hosts: ['*']",
            "E spec.hosts[0]: \"*\": a service needs a name; name the host, or *.example.com",
        ),
        (
            "hosts: ['*.a.com'], resolution: DNS",
            "E spec.hosts[0]: \"*.a.com\": a wildcard cannot be resolved by DNS; name the host, or add endpoints, or use resolution: NONE",
        ),
        (
            "hosts: [a.com], resolution: STATIC, endpoints: [{address: b.com}]",
            "E spec.endpoints[0].address: \"b.com\": is not an IP address; write an IP address, or set resolution: DNS",
        ),
        (
            "hosts: [a.com], endpoints: [{address: 1.2.3.4}]",
            "E spec.endpoints: has no effect with resolution NONE, which calls the address the client called; set resolution: STATIC or DNS",
        ),
        (
            "hosts: [a.com], addresses: [10.0.0.0/8], resolution: DNS",
            "E spec.addresses[0]: \"10.0.0.0/8\": CIDR blocks need resolution NONE or STATIC",
        ),
    ] {
        check(Kind::ServiceEntry, &format!("{{{rest}, {ports}}}"), &[want]);
    }
}

#[test]
fn policies() {
    for (spec, want) in [
        (
            "{action: DENY}",
            "E spec.rules: without rules a deny policy never matches; add an empty rule, rules: [{}], to match every request",
        ),
        (
            "{rules: [{from: [{source: {}}]}]}",
            "E spec.rules[0].from[0].source: names no caller; set namespaces, principals or ipBlocks",
        ),
        (
            "{rules: [{from: [{source: {ipBlocks: [x]}}]}]}",
            "E spec.rules[0].from[0].source.ipBlocks[0]: \"x\": is neither an IP address nor a CIDR block; write it as 10.1.2.3 or 10.0.0.0/8",
        ),
        (
            "{rules: [{to: [{operation: {ports: ['0']}}]}]}",
            "E spec.rules[0].to[0].operation.ports[0]: 0: must be a port, 1 to 65535",
        ),
        (
            "{rules: [{when: [{key: source.color, values: [x]}]}]}",
            "E spec.rules[0].when[0].key: \"source.color\": is not an attribute that can be matched; use one such as request.headers[x-tier], source.namespace or destination.port",
        ),
        (
            "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "W spec.rules[0]: uses only HTTP attributes, so on TCP ports it denies everything; add the ports it is about",
        ),
        (
            "{rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]}",
            "E spec.rules[0].to[0].operation.paths[0]: \"/{**}/{*}\": is not a path template; {*} stands for one whole segment, {**} for any number, at most once",
        ),
        (
            "{rules: [{from: [{source: {principals: ['spiffe://a']}}]}]}",
            "W spec.rules[0].from[0].source.principals[0]: spiffe:// is added by itself, so this never matches; write \"a\"",
        ),
    ] {
        check(Kind::AuthorizationPolicy, spec, &[want]);
    }
    check(Kind::AuthorizationPolicy, "{}", &[]);
    check(
        Kind::PeerAuthentication,
        "{portLevelMtls: {80: {mode: STRICT}}}",
        &[
            "E spec.portLevelMtls: needs spec.selector, because a port is one of a workload; add spec.selector.matchLabels",
        ],
    );
}

#[test]
fn kinds_without_rules_of_their_own_are_checked_against_the_schema() {
    check(
        Kind::Telemetry,
        "{accessLogging: [{providers: [{nam: x}]}]}",
        &[
            "E spec.accessLogging[0].providers[0].nam: unknown field; did you mean spec.accessLogging[0].providers[0].name?",
            "E spec.accessLogging[0].providers[0].name: is required",
        ],
    );
    check(
        Kind::EnvoyFilter,
        "{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {anything: {goes: [1]}}}}]}",
        &[],
    );
    let report = validate(Kind::WasmPlugin, &Value::Null);
    assert_eq!(report.errors.len(), 1);
}

/// The lessons the project ships hold nothing to complain of.
#[test]
fn the_lessons_are_valid() {
    let lessons = concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/lessons");
    let mut files: Vec<_> = std::fs::read_dir(lessons)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut world = World::default();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "yaml"))
    {
        let text = std::fs::read_to_string(file).unwrap();
        world.add_yaml(&file.display().to_string(), &text).unwrap();
    }
    let messages: Vec<String> = analyze(&world)
        .iter()
        .filter(|message| message.level() != Level::Info)
        .map(ToString::to_string)
        .collect();
    assert_eq!(messages, [""; 0]);
    assert!(world.objects.len() > 20);
}
