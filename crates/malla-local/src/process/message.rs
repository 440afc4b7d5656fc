//! Packets between the cluster process, pid 1 and the children of pid 1.
//!
//! One packet is one JSON value with at most [`MAX_FDS`] descriptors. Large things travel in a
//! memory file, so a packet always fits the socket's buffer.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spec::ExitStatus;
use crate::sys;

/// Most descriptors of one packet.
pub(super) const MAX_FDS: usize = 6;
/// Longest packet; error texts are the longest there are.
const MAX_PACKET: usize = 16 * 1024;

/// From the cluster process to pid 1. Descriptors: specification (memory file), status socket,
/// stdin, stdout, stderr, and the namespace or process to enter.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// A [`super::spec::ContainerSpec`]; the last descriptor is its network namespace.
    Container { id: u64 },
    /// A [`super::spec::CommandSpec`]; the last descriptor is the pidfd of a container's init.
    Exec { id: u64 },
}

/// From pid 1 to the cluster process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The child exists; its pidfd comes along.
    Spawned {
        id: u64,
    },
    Failed {
        id: u64,
        error: String,
    },
    Exited {
        id: u64,
        status: ExitStatus,
    },
}

/// From a child to the cluster process, over its status socket. The socket's end without a
/// `Failed` means that the command is running.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Progress {
    /// The main process of a container; its pidfd comes along.
    Main,
    /// The node's end of the pseudo-terminal comes along.
    Terminal,
    Failed {
        error: String,
    },
}

/// A connected pair of packet sockets.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Sends one packet.
pub(super) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    value: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let data = [IoSlice::new(&bytes)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &data,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one packet; `None` at the end of the connection.
pub(super) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0_u8; MAX_PACKET];
    let mut control = cmsg_space!([RawFd; MAX_FDS]);
    let (length, fds) = {
        let mut data = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut data,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut fds = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                fds.extend(raw.into_iter().map(sys::adopt));
            }
        }
        (message.bytes, fds)
    };
    if length == 0 {
        return Ok(None);
    }
    let packet = buffer.get(..length).unwrap_or_default();
    Ok(Some((serde_json::from_slice(packet)?, fds)))
}

/// A memory file holding `value`, for what may be larger than a packet.
pub(super) fn to_memory<T: Serialize>(value: &T) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"malla-spec", MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&serde_json::to_vec(value)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads what [`to_memory`] wrote.
pub(super) fn from_memory<T: DeserializeOwned>(fd: impl AsFd) -> io::Result<T> {
    let mut file = std::fs::File::from(fd.as_fd().try_clone_to_owned()?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
