//! Network namespaces, and work done inside of them.
//!
//! `setns` moves a thread, so all work goes to one thread that does nothing else; a socket belongs
//! for ever to the namespace it was made in, so it can be used from any thread afterwards.
//!
//! Invariant: jobs are short and never wait for the network.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};

use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;

/// Connections waiting to be accepted: nginx's default on Linux.
const BACKLOG: i32 = 511;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that works inside of namespaces.
#[derive(Debug, Clone)]
pub struct NamespaceThread {
    jobs: mpsc::Sender<Job>,
}

/// A network namespace; it lives as long as a handle or a process in it.
#[derive(Debug, Clone)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
    thread: NamespaceThread,
}

impl NamespaceThread {
    /// Starts the thread; it ends with the last handle.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("malla-netns".to_owned())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    job();
                }
            })?;
        Ok(Self { jobs })
    }

    /// Makes a namespace and runs `prepare` in it.
    pub async fn create<P>(&self, prepare: P) -> io::Result<Namespace>
    where
        P: FnOnce() -> io::Result<()> + Send + 'static,
    {
        let fd = self
            .run(move || -> io::Result<OwnedFd> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let fd = File::open("/proc/thread-self/ns/net")?.into();
                prepare()?;
                Ok(fd)
            })
            .await??;
        Ok(Namespace {
            fd: Arc::new(fd),
            thread: self.clone(),
        })
    }

    async fn run<T, J>(&self, job: J) -> io::Result<T>
    where
        T: Send + 'static,
        J: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _caller_gone = done.send(job());
        });
        let gone = || io::Error::other("the thread for network namespaces has ended");
        self.jobs.send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())
    }
}

impl Namespace {
    /// For children that are to live in it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs a short job inside.
    pub async fn run<T, J>(&self, job: J) -> io::Result<T>
    where
        T: Send + 'static,
        J: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let fd = Arc::clone(&self.fd);
        self.thread
            .run(move || {
                setns(fd.as_fd(), CloneFlags::CLONE_NEWNET)?;
                job()
            })
            .await?
    }

    /// Connects from inside.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.run(move || tcp(to)).await?;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    /// Listens inside; for `TcpListener::from_std`.
    pub async fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.run(move || {
            let socket = tcp(at)?;
            socket.set_reuse_address(true)?;
            socket.bind(&at.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .await
    }

    /// A bound datagram socket inside.
    pub async fn datagrams(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self
            .run(move || {
                let domain = Domain::for_address(at);
                let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
                socket.set_nonblocking(true)?;
                socket.bind(&at.into())?;
                Ok(socket)
            })
            .await?;
        UdpSocket::from_std(socket.into())
    }
}

fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
