//! The queues of one worker: one for each collector that its configuration names, however many listeners name it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use malla_proxy_config::access_log::{GrpcLogStream, OtlpExport};
use malla_proxy_config::tracing::Tracer;
use malla_runtime::drain::DrainWatch;
use malla_runtime::task::AbortOnDrop;

use super::queue::{Counts, Queue};
use super::{log_stream, otlp_logs, spans};
use crate::call::Caller;
use crate::live::Live;
use crate::telemetry::stats::WorkerStats;
use crate::telemetry::trace::otlp_resource;
use crate::telemetry::trace::span::WorkerTracer;
use crate::telemetry::trace::tags::NodeNames;
use crate::tls::Env;
use crate::upstream::Upstreams;

/// A collector and how it is spoken to.
#[derive(Debug, PartialEq)]
enum Key {
    Spans(Arc<Tracer>),
    Log(Arc<GrpcLogStream>),
    OtlpLog(Arc<OtlpExport>),
}

#[derive(Debug)]
struct Running {
    key: Key,
    queue: Rc<Queue>,
    _task: AbortOnDrop<()>,
}

/// All queues of one worker.
#[derive(Debug)]
pub struct Exporters<U> {
    caller: Rc<Caller<U>>,
    stats: WorkerStats,
    tasks: DrainWatch,
    node: NodeNames,
    running: RefCell<Vec<Running>>,
}

impl<U: Upstreams> Exporters<U> {
    /// `tasks` waits for what is on its way when the process ends.
    pub fn new(
        upstreams: U,
        live: Live,
        stats: WorkerStats,
        tasks: DrainWatch,
        node: NodeNames,
    ) -> Self {
        Self {
            caller: Rc::new(Caller::new(upstreams, live)),
            stats,
            tasks,
            node,
            running: RefCell::default(),
        }
    }

    /// What calls are made with.
    pub fn caller(&self) -> &Rc<Caller<U>> {
        &self.caller
    }

    /// Who this proxy is.
    pub fn node(&self) -> &NodeNames {
        &self.node
    }

    /// The queue to a tracer's collector. Call it inside of the worker.
    pub fn tracer(&self, config: &Arc<Tracer>, env: &Env) -> Rc<WorkerTracer> {
        let start = |queue: &Rc<Queue>| {
            let resource = match &**config {
                Tracer::OpenTelemetry(config) => otlp_resource(config, &**env),
                Tracer::Zipkin(_) => Vec::new(),
            };
            let run = spans::run(
                Rc::clone(&self.caller),
                Arc::clone(config),
                resource,
                Rc::clone(queue),
                self.tasks.clone(),
            );
            tokio::task::spawn_local(run)
        };
        let make = || {
            let counts = match &**config {
                Tracer::OpenTelemetry(_) => Counts::Otel(self.stats.otel()),
                Tracer::Zipkin(_) => Counts::Zipkin(self.stats.zipkin()),
            };
            Queue::new(spans::limits(config), counts)
        };
        Rc::new(WorkerTracer {
            queue: self.get(Key::Spans(Arc::clone(config)), make, start),
            config: Arc::clone(config),
            service: Arc::clone(&self.node.cluster),
        })
    }

    /// The queue to an access log service. Call it inside of the worker.
    pub fn log(&self, config: &Arc<GrpcLogStream>) -> Rc<Queue> {
        let start = |queue: &Rc<Queue>| {
            let run = log_stream::run(
                Rc::clone(&self.caller),
                Arc::clone(config),
                Arc::clone(&self.node.encoded),
                Rc::clone(queue),
                self.tasks.clone(),
            );
            tokio::task::spawn_local(run)
        };
        let make = || {
            Queue::new(
                log_stream::limits(config),
                Counts::Log(self.stats.grpc_log()),
            )
        };
        self.get(Key::Log(Arc::clone(config)), make, start)
    }

    /// The queue of log records to an OpenTelemetry collector. Call it inside of the worker.
    pub fn otlp_log(&self, config: &Arc<OtlpExport>) -> Rc<Queue> {
        let start = |queue: &Rc<Queue>| {
            let run = otlp_logs::run(
                Rc::clone(&self.caller),
                Arc::clone(config),
                otlp_logs::resource(config, &self.node),
                Rc::clone(queue),
                self.tasks.clone(),
            );
            tokio::task::spawn_local(run)
        };
        let make = || {
            let counts = Counts::Log(self.stats.otlp_log(&config.stat_prefix));
            Queue::new(otlp_logs::limits(config), counts)
        };
        self.get(Key::OtlpLog(Arc::clone(config)), make, start)
    }

    fn get(
        &self,
        key: Key,
        make: impl FnOnce() -> Queue,
        start: impl FnOnce(&Rc<Queue>) -> tokio::task::JoinHandle<()>,
    ) -> Rc<Queue> {
        let mut running = self.running.borrow_mut();
        if let Some(known) = running.iter().find(|known| known.key == key) {
            return Rc::clone(&known.queue);
        }
        // Of collectors that nothing names any more: held by this table and their own task alone.
        running.retain(|known| Rc::strong_count(&known.queue) > 2 || !known.queue.is_empty());
        let queue = Rc::new(make());
        running.push(Running {
            key,
            _task: AbortOnDrop::adopt(start(&queue)),
            queue: Rc::clone(&queue),
        });
        queue
    }
}
