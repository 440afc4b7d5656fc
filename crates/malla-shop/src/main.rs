//! The demo shop: one binary, one service per process, chosen by the first argument.
//!
//! Its HTTP interface is that of the well-known mesh demo shop, byte for byte, including two
//! services that answer HTTP/1.0 and close: a data plane has to cope with those.
//!
//! Reading order: [`serve`] is the little HTTP server all share, [`wire`] what they say to each
//! other, then one file per service.

mod cart;
mod client;
mod frontend;
mod order;
mod product;
mod serve;
mod stock;
mod upstream;
mod user;
mod visitors;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::wire::Place;

/// A service of the demo shop.
#[derive(Debug, Parser)]
#[command(
    name = "malla-shop",
    about,
    after_help = "Example: malla-shop order --version v2 --port 7000"
)]
struct Args {
    service: Service,
    /// Which version to be; order and product have two.
    #[arg(long, default_value = "v1")]
    version: Version,
    /// Port to listen on; 80 for the frontend and 7000 for the others unless given.
    #[arg(long)]
    port: Option<u16>,
    /// The pod's name, shown in the floating window.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod: String,
    #[arg(long, env = "REGION", default_value = "")]
    region: String,
    /// Domain the other services are found under.
    #[arg(long, env = "SHOP_DOMAIN", default_value = "base.svc.cluster.local")]
    domain: String,
    /// client: how many calls at the same moment.
    #[arg(long, env = "CLIENT_CONCURRENCY", default_value_t = 4)]
    concurrency: usize,
    /// client: milliseconds between such moments; 0 calls in a tight loop.
    #[arg(long, env = "CLIENT_INTERVAL_MS", default_value_t = 50)]
    interval_ms: u64,
    /// visitors: where the shop's door is.
    #[arg(
        long,
        env = "SHOP_DOOR",
        default_value = "istio-ingressgateway.istio-system.svc.cluster.local"
    )]
    door: String,
    /// visitors: requests a second.
    #[arg(long, env = "VISITS_PER_SECOND", default_value_t = 4.0)]
    per_second: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Service {
    Frontend,
    Product,
    User,
    Cart,
    Order,
    Stock,
    Client,
    Visitors,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let default_port = if args.service == Service::Frontend {
        80
    } else {
        7000
    };
    let address = SocketAddr::from(([0, 0, 0, 0], args.port.unwrap_or(default_port)));
    let listener = serve::bind(address).await?;
    let place = Place {
        pod: args.pod,
        region: args.region,
    };
    let shop = upstream::Shop::new(&args.domain);
    match args.service {
        Service::Frontend => serve::run(listener, frontend::Frontend::new(shop)).await,
        Service::Product => {
            serve::run(
                listener,
                product::Product {
                    version: args.version,
                    place,
                },
            )
            .await
        }
        Service::User => serve::run(listener, user::Users { place }).await,
        Service::Cart => serve::run(listener, cart::Carts::new(shop, place)).await,
        Service::Order => {
            serve::run(
                listener,
                order::Orders {
                    version: args.version,
                    shop,
                    place,
                },
            )
            .await
        }
        Service::Stock => serve::run(listener, stock::Stocks { place }).await,
        Service::Client => {
            let pace = client::Pace {
                concurrency: args.concurrency.clamp(1, 1000),
                interval: Duration::from_millis(args.interval_ms),
            };
            client::run(listener, shop, pace).await
        }
        Service::Visitors => visitors::run(listener, shop, args.door, args.per_second).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
