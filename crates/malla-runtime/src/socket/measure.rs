//! What the kernel has measured of a connection.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The smoothed round-trip time of a TCP connection (`TCP_INFO`, `tcpi_rtt`).
///
/// # Errors
/// When the socket is not one of TCP.
pub fn round_trip(socket: impl AsFd) -> io::Result<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>())
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is borrowed, so it is open; `info` has room for `length` bytes, and the kernel writes no
    // more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern is a `tcp_info`, and all of it was zeroed before the kernel wrote its part.
    let info = unsafe { info.assume_init() };
    Ok(Duration::from_micros(info.tcpi_rtt.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::round_trip;

    #[test]
    fn a_connection_has_a_round_trip_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let time = round_trip(&client).unwrap();
        assert!(
            time > Duration::ZERO && time < Duration::from_secs(1),
            "{time:?}"
        );
        round_trip(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap_err();
    }
}
