//! Containers as processes: their root, their users, their ends.

use std::fs;

use anyhow::{Result, ensure};
use malla_local::process::ExitStatus;
use malla_local::sandbox::Inside;
use nix::sys::signal::Signal;

use super::support::{Bench, Tests, bind, finish, pipes, shell};

pub(crate) fn all(tests: &mut Tests) {
    tests.run("a_container_sees_its_own_world", own_world);
    tests.run("mounts_appear_where_the_host_has_nothing", mounts);
    tests.run("users_and_capabilities_are_taken", users);
    tests.run("the_end_of_a_container_is_told", ends);
    tests.run("a_command_enters_a_running_container", exec);
    tests.run("what_cannot_start_says_why", start_errors);
}

async fn own_world(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let pod = bench.pod("10.244.0.2").await?;
    let script = format!(
        "hostname; ls /tmp /run; cat /proc/1/comm; ls {} 2>&1; touch /usr/x 2>&1; echo hi > /tmp/x && cat /tmp/x; \
         echo $$; ls -d /proc/[0-9]* | wc -l; test -c /dev/null && echo dev; head -c1 /etc/passwd",
        bench.directory.path().display()
    );
    let (code, output) = bench.output(&pod, &script).await?;
    let lines: Vec<&str> = output.lines().collect();
    ensure!(code == 0, "{output}");
    ensure!(lines.first() == Some(&"tester"), "{output}");
    ensure!(output.contains("malla-pause"), "{output}");
    ensure!(output.contains("Read-only file system"), "{output}");
    ensure!(lines.contains(&"hi") && lines.contains(&"dev"), "{output}");
    ensure!(
        !output.contains("root\n"),
        "the node's state is visible: {output}"
    );
    Ok(())
}

async fn mounts(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let pod = bench.pod("10.244.0.2").await?;
    let volume = bench.path("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("token"), "secret")?;
    let file = bench.path("hosts");
    fs::write(&file, "127.0.0.1 localhost tester\n")?;
    let mounts = vec![
        bind(&volume, "/var/run/secrets/tokens", true),
        bind(&volume, "/etc/istio/proxy", false),
        bind(&volume, "/usr/local/deep/er", true),
        bind(&file, "/etc/hosts", false),
    ];
    let script = "set -e; cat /var/run/secrets/tokens/token; echo; cat /etc/hosts; cat /usr/local/deep/er/token; \
                  echo new > /etc/istio/proxy/made; ls /usr/local/bin > /dev/null; ls /etc/passwd; \
                  echo x > /var/run/secrets/tokens/token";
    let (code, output) = bench
        .output_of(&pod, &bench.container(script, mounts))
        .await?;
    ensure!(code != 0, "a read-only volume was written: {output}");
    ensure!(
        output.starts_with("secret\n127.0.0.1 localhost tester\nsecret"),
        "{output}"
    );
    ensure!(output.contains("Read-only"), "{output}");
    ensure!(fs::read_to_string(volume.join("made"))? == "new\n");
    ensure!(
        !std::path::Path::new("/etc/istio").exists(),
        "the host was touched"
    );
    Ok(())
}

async fn users(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let pod = bench.pod("10.244.0.2").await?;
    let mut spec = bench.container(
        "id -u; id -G; grep CapEff /proc/self/status; grep NoNew /proc/self/status",
        vec![],
    );
    spec.command.credentials.uid = 1337;
    spec.command.credentials.gid = 1337;
    spec.command.credentials.groups = vec![1337, 7];
    spec.command.credentials.no_new_privileges = true;
    let (_, output) = bench.output_of(&pod, &spec).await?;
    let wanted = "1337\n1337 7\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n";
    ensure!(output == wanted, "{output}");
    let (_, output) = bench
        .output(
            &pod,
            "grep CapEff /proc/self/status; unshare -n true; ip link add d0 type dummy",
        )
        .await?;
    ensure!(
        output.starts_with("CapEff:\t00000000a80425fb\n"),
        "{output}"
    );
    ensure!(output.matches("not permitted").count() == 2, "{output}");
    Ok(())
}

async fn ends(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let pod = bench.pod("10.244.0.2").await?;
    let (code, _) = bench.output(&pod, "exit 7").await?;
    ensure!(code == 7);
    // Default signal dispositions hold: the command is not pid 1.
    let process = bench.serve(&pod, "echo ready; exec sleep 1000").await?;
    process.signal(Signal::SIGTERM)?;
    ensure!(process.wait().await.code() == 143);
    // Killing a container takes its every process, whatever session they made.
    let process = bench
        .serve(&pod, "setsid sleep 1000 & echo ready; sleep 1000")
        .await?;
    let host_pid = process.host_pid().expect("a pid");
    ensure!(std::path::Path::new(&format!("/proc/{host_pid}")).exists());
    process.kill()?;
    ensure!(process.wait().await == ExitStatus::Signal(9));
    ensure!(process.host_pid().is_none());
    // Killing only the command ends the container too.
    let process = bench
        .serve(&pod, "sleep 1000 & echo ready; exec sleep 1000")
        .await?;
    process.signal(Signal::SIGKILL)?;
    ensure!(process.wait().await.code() == 137);
    Ok(())
}

async fn exec(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let pod = bench.pod("10.244.0.2").await?;
    let container = bench
        .serve(&pod, "echo inner > /tmp/mark; echo ready; exec sleep 1000")
        .await?;
    let (stdio, output) = pipes()?;
    let command = shell("cat /tmp/mark; hostname; cat /proc/2/cmdline | tr '\\0' ' '; exit 3");
    let process = bench.spawner.exec(&command, stdio, &container).await?;
    let (code, output) = finish(process, output).await?;
    ensure!(
        code == 3 && output == "inner\ntester\nsleep 1000 ",
        "{code} {output}"
    );

    let (stdio, _) = pipes()?;
    let mut command = shell("tty; stty size");
    command.terminal = true;
    let mut process = bench.spawner.exec(&command, stdio, &container).await?;
    let terminal = process.terminal.take().expect("a terminal");
    let mut text = String::new();
    let reading = tokio::task::spawn_blocking(move || {
        // A terminal's end reads as EIO.
        let _closed = std::io::Read::read_to_string(&mut fs::File::from(terminal), &mut text);
        text
    });
    ensure!(process.wait().await.code() == 0);
    let text = reading.await?;
    ensure!(text.starts_with("/dev/pts/0"), "{text}");
    Ok(())
}

async fn start_errors(inside: Inside) -> Result<()> {
    let bench = Bench::new(&inside).await?;
    let pod = bench.pod("10.244.0.2").await?;
    let start = async |spec: &malla_local::process::ContainerSpec| {
        let (stdio, _) = pipes()?;
        let started = bench.spawner.run(spec, stdio, pod.namespace.fd()).await;
        anyhow::Ok(
            started
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default(),
        )
    };
    let mut spec = bench.container("", vec![]);
    spec.command.argv = vec!["no-such-program".to_owned()];
    let error = start(&spec).await?;
    ensure!(
        error.contains("\"no-such-program\": executable file not found in PATH"),
        "{error}"
    );
    let private = tempfile::Builder::new().prefix("program").tempfile()?;
    spec.command.argv = vec![private.path().display().to_string()];
    let error = start(&spec).await?;
    ensure!(error.contains("is not visible in containers"), "{error}");
    let missing = bench.path("nowhere");
    let spec = bench.container("true", vec![bind(&missing, "/data", false)]);
    let error = start(&spec).await?;
    ensure!(error.starts_with("mount /data: source "), "{error}");
    let spec = bench.container("true", vec![bind(bench.directory.path(), "/proc", false)]);
    let error = start(&spec).await?;
    ensure!(
        error == "/proc: this path cannot be mounted over",
        "{error}"
    );
    Ok(())
}
