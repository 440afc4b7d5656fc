//! Services as clients see them: VIPs, names, published ports, the way out.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use malla_apiserver::kinds;
use malla_local::PUBLISHED_ANNOTATION;
use malla_local::sandbox::Inside;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::Tests;
use super::world::{World, condition, fetch};

pub(crate) fn all(tests: &mut Tests) {
    tests.run("a_deployment_serves_through_its_service", deployment_serves);
    tests.run("pods_find_services_by_name", names);
    tests.run("endpoints_of_users_are_served", own_endpoints);
    tests.run("pods_reach_the_world_outside", egress);
    tests.run("two_clusters_live_side_by_side", two_clusters);
}

async fn deployment_serves(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let service = world.service("LoadBalancer").await?;
    world.web(2, json!({})).await?;
    let ready = |object: &Value| object["status"]["availableReplicas"] == 2;
    let deployment = world.until(&kinds::DEPLOYMENTS, "web", ready).await?;
    ensure!(
        condition(&deployment, "Available") == "True",
        "{deployment:#}"
    );
    let seen = world.answering(&service, 2).await?;
    // And from the host, where the annotation says.
    let published =
        |object: &Value| object["metadata"]["annotations"][PUBLISHED_ANNOTATION].is_string();
    let service = world.until(&kinds::SERVICES, "web", published).await?;
    ensure!(
        service["status"]["loadBalancer"]["ingress"][0]["ip"] == "127.0.0.1",
        "{service:#}"
    );
    let entry = service["metadata"]["annotations"][PUBLISHED_ANNOTATION]
        .as_str()
        .unwrap_or_default();
    let at: SocketAddr = entry.strip_prefix("80=").context("no port 80")?.parse()?;
    ensure!(seen.contains(&fetch(TcpStream::connect(at).await?, "/").await?));
    // Without pods the port closes, and the annotation goes.
    world
        .merge(&kinds::DEPLOYMENTS, "web", json!({"spec": {"replicas": 0}}))
        .await?;
    world
        .until(&kinds::SERVICES, "web", |object| !published(object))
        .await?;
    // Another cluster of this machine may have taken the port by now.
    if let Ok(stream) = TcpStream::connect(at).await {
        let name = fetch(stream, "/").await.unwrap_or_default();
        ensure!(!seen.contains(&name), "the port is still open");
    }
    world.stop().await
}

async fn names(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    let service = world.service("ClusterIP").await?;
    world
        .web(
            1,
            json!({"spec": {"hostname": "one", "subdomain": "heads"}}),
        )
        .await?;
    let headless = json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 8080}]});
    world
        .create(
            &kinds::SERVICES,
            json!({"metadata": {"name": "heads"}, "spec": headless}),
        )
        .await?;
    let external = json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"});
    world
        .create(
            &kinds::SERVICES,
            json!({"metadata": {"name": "alias"}, "spec": external}),
        )
        .await?;
    world.answering(&service, 1).await?;
    world.shell("client", "exec sleep 1000").await?;
    world.ready("client").await?;
    let script = "getent ahostsv4 web | head -1; getent ahostsv4 alias | head -1; getent ahostsv4 one.heads | head -1; \
                  getent hosts nowhere || echo none; curl -s --max-time 3 http://web/ && curl -s --max-time 3 http://one.heads:8080/; \
                  curl -sk --max-time 3 -o /dev/null -w '%{http_code}' https://kubernetes.default.svc/healthz";
    let (_, output) = world.exec("client", "main", script).await?;
    let lines: Vec<&str> = output.lines().collect();
    let [web, alias, head, none, by_vip, by_name, health] = lines.as_slice() else {
        bail!("{output}");
    };
    ensure!(web.split(' ').next() == alias.split(' ').next(), "{output}");
    ensure!(
        web.starts_with("10.96.") && head.starts_with("10.244.0."),
        "{output}"
    );
    ensure!(
        *none == "none" && by_vip == by_name && *by_vip == "one",
        "{output}"
    );
    ensure!(*health == "200" || *health == "401", "{output}");
    world.stop().await
}

async fn own_endpoints(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world.web(1, json!({})).await?;
    world
        .until(&kinds::DEPLOYMENTS, "web", |one| {
            one["status"]["availableReplicas"] == 1
        })
        .await?;
    let pods = world
        .client
        .list(&kinds::PODS, Some("default"), &Default::default());
    let pods = pods.map_err(|error| anyhow!("{}", error.message()))?;
    let ip = pods.items[0]["status"]["podIP"]
        .as_str()
        .context("no address")?
        .to_owned();
    let spec = json!({"ports": [{"port": 80, "targetPort": 8080}]});
    world
        .create(
            &kinds::SERVICES,
            json!({"metadata": {"name": "mine"}, "spec": spec}),
        )
        .await?;
    let subsets = json!([{"addresses": [{"ip": ip}], "ports": [{"port": 8080}]}]);
    world
        .create(
            &kinds::ENDPOINTS,
            json!({"metadata": {"name": "mine"}, "subsets": subsets}),
        )
        .await?;
    world.shell("client", "exec sleep 1000").await?;
    world.ready("client").await?;
    let (_, output) = world
        .exec(
            "client",
            "main",
            "curl -s --retry 9 --retry-connrefused --retry-delay 1 http://mine/",
        )
        .await?;
    ensure!(output.starts_with("web-"), "{output}");
    world.stop().await
}

async fn egress(inside: Inside) -> Result<()> {
    let world = World::new(&inside).await?;
    world.shell("client", "exec sleep 1000").await?;
    world.ready("client").await?;
    // "Outside" is the host's network namespace; its loopback stands for the world at 127.0.0.2,
    // which a pod cannot name, so an address of the host is needed: any that is not loopback.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let outside = match probe.connect("192.0.2.1:9") {
        Ok(()) => probe.local_addr()?.ip(),
        Err(error) => bail!("this machine has no address besides its loopback: {error}"),
    };
    let listener = tokio::net::TcpListener::bind((outside, 0)).await?;
    let at = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        let (mut stream, peer) = listener.accept().await?;
        stream
            .write_all(format!("hello {}", peer.ip()).as_bytes())
            .await?;
        anyhow::Ok(())
    });
    let script = format!("curl -s --max-time 5 --http0.9 http://{at}/");
    let (_, output) = world.exec("client", "main", &script).await?;
    ensure!(output == format!("hello {outside}"), "{output}");
    serving.await??;
    // Nobody listens there any more: reset, at once.
    let (code, output) = world.exec("client", "main", &script).await?;
    ensure!([7, 52, 56].contains(&code), "{code} {output}");
    world.stop().await
}

async fn two_clusters(inside: Inside) -> Result<()> {
    let ranges = ["10.244.0.0/24".parse()?, "10.244.1.0/24".parse()?];
    let [first, second] = ranges;
    let a = World::with(&inside, |config| {
        (config.pods, config.peers) = (first, vec![second])
    })
    .await?;
    let b = World::with(&inside, |config| {
        (config.pods, config.peers) = (second, vec![first])
    })
    .await?;
    ensure!(a.cluster.url() != b.cluster.url());
    a.cluster.link(&b.cluster).await?;
    let mut published = Vec::new();
    for world in [&a, &b] {
        world.service("LoadBalancer").await?;
        world.web(1, json!({})).await?;
        let annotation =
            |one: &Value| one["metadata"]["annotations"][PUBLISHED_ANNOTATION].is_string();
        let service = world.until(&kinds::SERVICES, "web", annotation).await?;
        published.push(service["metadata"]["annotations"][PUBLISHED_ANNOTATION].to_string());
    }
    ensure!(published[0] != published[1], "{published:?}");
    let pods = b
        .client
        .list(&kinds::PODS, Some("default"), &Default::default());
    let pods = pods.map_err(|error| anyhow!("{}", error.message()))?;
    let ip = pods.items[0]["status"]["podIP"]
        .as_str()
        .context("no address")?;
    ensure!(ip.starts_with("10.244.1."), "{ip}");
    a.shell("client", "exec sleep 1000").await?;
    a.ready("client").await?;
    let (_, output) = a
        .exec(
            "client",
            "main",
            &format!("curl -s --max-time 5 http://{ip}:8080/; curl -s --max-time 5 http://web/"),
        )
        .await?;
    let names: Vec<&str> = output.lines().collect();
    ensure!(names.len() == 2 && names[0] != names[1], "{output}");
    ensure!(
        Some(names[0]) == pods.items[0]["metadata"]["name"].as_str(),
        "{output}"
    );
    a.stop().await?;
    b.stop().await
}
