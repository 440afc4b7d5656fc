//! Pods talk to each other and through Service VIPs.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use malla_local::net::ServiceRules;
use malla_local::net::rules::{Addresses, Backends, Frontend, Services, Transport};
use malla_local::sandbox::Inside;
use tokio::io::AsyncReadExt;

use super::support::{Bench, Tests};

/// Answers every connection to port 7000 with its argument.
const SERVER: &str = "python3 -c '
import socket, sys
s = socket.create_server((\"0.0.0.0\", 7000), backlog=64)
print(\"ready\", flush=True)
while True:
    c, peer = s.accept()
    c.sendall((\"%s \" % sys.argv[1] + peer[0]).encode()); c.close()
' ";

pub(crate) fn all(tests: &mut Tests) {
    tests.run("pods_reach_each_other_and_the_node", pods_talk);
    tests.run("a_vip_balances_over_endpoints", vip);
    tests.run("a_client_sticks_to_its_endpoint", affinity);
    tests.run("connections_outlive_their_rule", flows_survive);
}

const VIP: &str = "10.96.0.20";

fn services(endpoints: &[&str], affinity_seconds: Option<u32>) -> Result<Services> {
    let frontend = Frontend {
        address: VIP.parse()?,
        transport: Transport::Tcp,
        port: 80,
    };
    let endpoints: Result<BTreeSet<_>, _> = endpoints.iter().map(|text| text.parse()).collect();
    let backends = Backends {
        endpoints: endpoints?,
        affinity_seconds,
    };
    Ok(Services::from([(frontend, backends)]))
}

fn ask(address: &str, times: usize) -> String {
    format!(
        "python3 -c '
import socket
for _ in range({times}):
    c = socket.create_connection((\"{address}\", {port}), 3)
    print(c.recv(100).decode())
'",
        port = if address == VIP { 80 } else { 7000 },
    )
}

async fn rules(bench: &Bench) -> Result<ServiceRules> {
    let namespace = bench.network.namespace().clone();
    let addresses = Addresses {
        services: "10.96.0.0/16".parse()?,
        node: "10.244.0.1".parse()?,
        pods: vec!["10.244.0.0/24".parse()?],
    };
    Ok(ServiceRules::load(namespace, addresses).await?)
}

async fn pods_talk(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let (a, b) = (
        bench.pod("10.244.0.2").await?,
        bench.pod("10.244.0.3").await?,
    );
    let _server = bench.serve(&b, &format!("{SERVER} b")).await?;
    let (_, output) = bench.output(&a, &ask("10.244.0.3", 1)).await?;
    ensure!(output == "b 10.244.0.2\n", "{output}");
    let to: SocketAddr = "10.244.0.3:7000".parse()?;
    let mut text = String::new();
    bench
        .network
        .namespace()
        .connect(to)
        .await?
        .read_to_string(&mut text)
        .await?;
    ensure!(text == "b 10.244.0.1", "{text}");
    // A user who is not root binds low ports, as in usual runtimes.
    let mut spec = bench.container(
        "exec python3 -c 'import socket; socket.create_server((\"\", 80)); print(1)'",
        vec![],
    );
    spec.command.credentials.uid = 1337;
    let (_, output) = bench.output_of(&a, &spec).await?;
    ensure!(output == "1\n", "{output}");
    bench.network.remove_pod(&b).await;
    Ok(())
}

async fn vip(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let (a, b) = (
        bench.pod("10.244.0.2").await?,
        bench.pod("10.244.0.3").await?,
    );
    let _servers = (
        bench.serve(&a, &format!("{SERVER} a")).await?,
        bench.serve(&b, &format!("{SERVER} b")).await?,
    );
    let mut rules = rules(&bench).await?;
    let (code, output) = bench.output(&a, &ask(VIP, 1)).await?;
    ensure!(
        code != 0 && output.contains("Connection refused"),
        "{output}"
    );
    rules
        .apply(services(&["10.244.0.2:7000", "10.244.0.3:7000"], None)?)
        .await?;
    let (_, output) = bench.output(&a, &ask(VIP, 40)).await?;
    // A pod that meets itself through the VIP sees the node as its peer.
    ensure!(
        output.contains("a 10.244.0.1\n") && output.contains("b 10.244.0.2\n"),
        "{output}"
    );
    rules.apply(services(&["10.244.0.3:7000"], None)?).await?;
    let (_, output) = bench.output(&a, &ask(VIP, 10)).await?;
    ensure!(output == "b 10.244.0.2\n".repeat(10), "{output}");
    let mut text = String::new();
    let to: SocketAddr = format!("{VIP}:80").parse()?;
    bench
        .network
        .namespace()
        .connect(to)
        .await?
        .read_to_string(&mut text)
        .await?;
    ensure!(text == "b 10.244.0.1", "{text}");
    rules.apply(services(&[], None)?).await?;
    let refused = bench.network.namespace().connect(to).await;
    ensure!(refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused));
    Ok(())
}

async fn affinity(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let (a, b) = (
        bench.pod("10.244.0.2").await?,
        bench.pod("10.244.0.3").await?,
    );
    let client = bench.pod("10.244.0.4").await?;
    let _servers = (
        bench.serve(&a, &format!("{SERVER} a")).await?,
        bench.serve(&b, &format!("{SERVER} b")).await?,
    );
    let mut rules = rules(&bench).await?;
    rules
        .apply(services(&["10.244.0.2:7000", "10.244.0.3:7000"], Some(60))?)
        .await?;
    let (_, first) = bench.output(&client, &ask(VIP, 1)).await?;
    let (_, again) = bench.output(&client, &ask(VIP, 12)).await?;
    ensure!(again == first.repeat(12), "{first}{again}");
    rules.apply(Services::new()).await?;
    Ok(())
}

async fn flows_survive(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let a = bench.pod("10.244.0.2").await?;
    let echo = "python3 -c '
import socket
s = socket.create_server((\"0.0.0.0\", 7000)); print(\"ready\", flush=True)
c, _ = s.accept()
while True:
    c.sendall(c.recv(10))
'";
    let _server = bench.serve(&a, echo).await?;
    let mut rules = rules(&bench).await?;
    rules.apply(services(&["10.244.0.2:7000"], None)?).await?;
    let to: SocketAddr = format!("{VIP}:80").parse()?;
    let mut stream = bench.network.namespace().connect(to).await?;
    rules.apply(services(&["10.244.0.3:7000"], None)?).await?;
    let mut answer = [0_u8; 5];
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"still").await?;
    stream.read_exact(&mut answer).await?;
    ensure!(&answer == b"still");
    Ok(())
}
