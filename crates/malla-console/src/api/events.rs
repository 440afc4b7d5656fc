//! Server-sent events: what changed, so that pages refresh themselves.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::BroadcastStream;

use crate::error::ApiError;
use crate::server::App;

/// Most pages that listen at a time.
const MOST_LISTENERS: usize = 128;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn stream(
    State(app): State<Arc<App>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    if app.mirror.listeners() >= MOST_LISTENERS {
        return Err(
            ApiError::unavailable(format!("{MOST_LISTENERS} pages listen already"))
                .fix("close some of the console's tabs"),
        );
    }
    let events = BroadcastStream::new(app.mirror.subscribe()).filter_map(|told| async {
        // Who lagged behind has missed events; pages also ask on their own.
        let told = told.ok()?;
        Some(Ok(Event::default()
            .event(told.name)
            .data(told.data.to_string())))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
