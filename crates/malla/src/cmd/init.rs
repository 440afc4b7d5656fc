//! `malla init`: captures a pod's traffic, as `istio-iptables` does and with its flags.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use clap::Args;
use malla_redirect::apply::detect;
use malla_redirect::{Plan, Settings, Tool, apply, cleanup, iptables, nft};

use crate::output::Output;

/// Capture this network namespace's traffic for its proxy.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  malla init -p 15001 -z 15006 -u 1337 -d 15090,15021,15020
  malla init --dry-run -x 10.0.0.0/8
  malla init --cleanup")]
pub(crate) struct InitArgs {
    /// Port that takes outbound connections.
    #[arg(short = 'p', long = "envoy-port", default_value_t = 15001)]
    proxy_port: u16,
    /// Port that takes inbound connections.
    #[arg(short = 'z', long, default_value_t = 15006)]
    inbound_capture_port: u16,
    /// Users whose traffic is the proxy's own.
    #[arg(short = 'u', long, default_value = "1337")]
    proxy_uid: String,
    /// Groups whose traffic is the proxy's own.
    #[arg(short = 'g', long, default_value = "1337")]
    proxy_gid: String,
    /// How traffic is captured: REDIRECT, or TPROXY, which keeps clients' addresses.
    #[arg(
        short = 'm',
        long = "istio-inbound-interception-mode",
        default_value = "REDIRECT"
    )]
    mode: String,
    /// Mark of the proxy's packets in mode TPROXY.
    #[arg(
        short = 't',
        long = "istio-inbound-tproxy-mark",
        default_value_t = 1337
    )]
    tproxy_mark: u32,
    /// Routing table of those packets.
    #[arg(
        short = 'r',
        long = "istio-inbound-tproxy-route-table",
        default_value_t = 133
    )]
    tproxy_route_table: u32,
    /// Inbound ports to capture: `*`, or a list.
    #[arg(
        short = 'b',
        long = "istio-inbound-ports",
        default_value = "*",
        allow_hyphen_values = true
    )]
    inbound_ports: String,
    /// Inbound ports to leave alone.
    #[arg(short = 'd', long = "istio-local-exclude-ports", default_value = "")]
    exclude_inbound_ports: String,
    /// Destinations to capture: `*`, or a list of CIDRs.
    #[arg(short = 'i', long = "istio-service-cidr", default_value = "*")]
    outbound_ranges: String,
    /// Destinations to leave alone.
    #[arg(short = 'x', long = "istio-service-exclude-cidr", default_value = "")]
    exclude_outbound_ranges: String,
    /// Outbound ports to capture whatever the destination.
    #[arg(short = 'q', long = "istio-outbound-ports", default_value = "")]
    outbound_ports: String,
    /// Outbound ports to leave alone.
    #[arg(
        short = 'o',
        long = "istio-local-outbound-ports-exclude",
        default_value = ""
    )]
    exclude_outbound_ports: String,
    /// Send DNS queries to the proxy's agent.
    #[arg(long)]
    redirect_dns: bool,
    /// Print the rules instead of loading them.
    #[arg(long)]
    dry_run: bool,
    /// Remove the rules.
    #[arg(long)]
    cleanup: bool,
    /// What Istio's injector says beside; there is nothing to tune here.
    #[arg(long = "log_output_level", hide = true)]
    _log_output_level: Option<String>,
    /// Use this tool instead of the first that works.
    #[arg(long, value_enum)]
    tool: Option<ToolChoice>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ToolChoice {
    Nft,
    Iptables,
}

pub(crate) fn run(args: InitArgs, out: &mut Output) -> Result<()> {
    let chosen = args.tool.map(|tool| match tool {
        ToolChoice::Nft => Tool::Nft,
        ToolChoice::Iptables => Tool::Iptables,
    });
    let tool = match chosen {
        Some(tool) => tool,
        None if args.dry_run => Tool::Nft,
        None => detect()?,
    };
    if args.cleanup {
        return cleanup(tool).context("remove the capture rules");
    }
    let plan = Plan::try_from(&settings(&args))?;
    if args.dry_run {
        out.text(&match tool {
            Tool::Nft => nft::rules(&plan),
            Tool::Iptables => {
                iptables::rules(&plan, iptables::Family::V4)
                    + &iptables::rules(&plan, iptables::Family::V6)
            }
        });
        return Ok(());
    }
    apply(&plan, tool).context("capture the pod's traffic")?;
    out.text(&format!(
        "traffic is captured with {tool}: outbound to {}, inbound to {}\n",
        plan.proxy_port, plan.inbound_capture_port
    ));
    Ok(())
}

fn settings(args: &InitArgs) -> Settings {
    Settings {
        proxy_port: args.proxy_port,
        inbound_capture_port: args.inbound_capture_port,
        proxy_uid: args.proxy_uid.clone(),
        proxy_gid: args.proxy_gid.clone(),
        mode: args.mode.clone(),
        tproxy_mark: args.tproxy_mark,
        tproxy_route_table: args.tproxy_route_table,
        inbound_ports: args.inbound_ports.clone(),
        exclude_inbound_ports: args.exclude_inbound_ports.clone(),
        outbound_ranges: args.outbound_ranges.clone(),
        exclude_outbound_ranges: args.exclude_outbound_ranges.clone(),
        outbound_ports: args.outbound_ports.clone(),
        exclude_outbound_ports: args.exclude_outbound_ports.clone(),
        redirect_dns: args.redirect_dns,
        dns_servers: if args.redirect_dns {
            resolvers()
        } else {
            Vec::new()
        },
    }
}

/// The pod's resolvers, whose queries are captured.
fn resolvers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers
        .filter_map(|address| address.trim().parse().ok())
        .collect()
}
