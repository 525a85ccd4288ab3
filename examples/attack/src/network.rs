//! Attempts at networks. Never sends more than a word.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use crate::{Outcome, came, ok};

fn raw(error: std::io::Error) -> i32 {
    match error.kind() {
        std::io::ErrorKind::TimedOut => libc::ETIMEDOUT,
        _ => error.raw_os_error().unwrap_or(0),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("tests give addresses with ports")
}

fn v4(text: &str) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address(text) else {
        panic!("tests give IPv4 here")
    };
    name(&address)
}

fn name(address: &SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: zero is a value of each field.
    let mut name: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    name.sin_family = libc::AF_INET as u16;
    name.sin_port = address.port().to_be();
    name.sin_addr.s_addr = u32::from(*address.ip()).to_be();
    name
}

/// Connects by sending, by each of the three calls.
fn fast_open(how: &str, to: &str) -> Outcome {
    let mut to = v4(to);
    let mut byte = 0u8;
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: names, buffers and headers are ours and as long as is said.
    unsafe {
        let socket = came(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into())? as i32;
        let mut part = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        let mut header: libc::mmsghdr = std::mem::zeroed();
        header.msg_hdr.msg_name = (&raw mut to).cast();
        header.msg_hdr.msg_namelen = length;
        header.msg_hdr.msg_iov = &mut part;
        header.msg_hdr.msg_iovlen = 1;
        let flags = libc::MSG_FASTOPEN as libc::c_long;
        let sent = match how {
            "sendto" => libc::syscall(libc::SYS_sendto, socket, &byte, 1, flags, &to, length),
            // The upper half of an argument is nobody's: the filter must not be confused by it.
            "sendto-upper" => libc::syscall(libc::SYS_sendto, socket, &byte, 1, flags | 1 << 40, &to, length),
            "sendmsg" => libc::syscall(libc::SYS_sendmsg, socket, &header.msg_hdr, flags),
            "sendmmsg" => libc::syscall(libc::SYS_sendmmsg, socket, &mut header, 1, flags),
            _ => {
                let one = 1i32;
                let set = libc::setsockopt(
                    socket,
                    libc::IPPROTO_TCP,
                    libc::TCP_FASTOPEN_CONNECT,
                    (&raw const one).cast(),
                    4,
                );
                came(set.into())?;
                libc::c_long::from(libc::connect(socket, (&raw const to).cast(), length))
            }
        };
        came(sent).map(|_| String::new())
    }
}

/// A stream socket of this protocol, connected.
fn stream(protocol: i32, to: &str) -> Outcome {
    let to = v4(to);
    // SAFETY: the name is ours and as long as is said.
    unsafe {
        let socket = came(libc::socket(libc::AF_INET, libc::SOCK_STREAM, protocol).into())? as i32;
        came(
            libc::connect(
                socket,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
            .into(),
        )
        .map(|_| String::new())
    }
}

fn talk(to: &str, said: &str) -> Outcome {
    let mut stream = TcpStream::connect_timeout(&address(to), Duration::from_secs(3)).map_err(raw)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .map_err(raw)?;
    stream.write_all(said.as_bytes()).map_err(raw)?;
    stream.shutdown(Shutdown::Write).map_err(raw)?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).map_err(raw)?;
    Ok(format!("heard {heard}"))
}

/// Gives the loopback interface of this namespace an address, and listens on port 80 of it.
pub(crate) fn make_local(ip: &str) -> Result<(), i32> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        address: libc::sockaddr_in,
        rest: [u8; 8],
    }
    let mut name_of = [0; 16];
    name_of[..2].copy_from_slice(b"lo");
    let at: SocketAddrV4 = format!("{ip}:80").parse().expect("tests give an address");
    let mut request = Request {
        name: name_of,
        address: name(&at),
        rest: [0; 8],
    };
    // SAFETY: the request is laid out as `struct ifreq`, and as long.
    unsafe {
        let socket = came(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).into())? as i32;
        came(libc::ioctl(socket, libc::SIOCSIFADDR as _, &request).into())?;
        request.address.sin_family = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
        came(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request).into())?;
    }
    let listener = std::net::TcpListener::bind(at).map_err(raw)?;
    std::mem::forget(listener);
    Ok(())
}

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<Outcome> {
    Some(match (verb, arguments) {
        ("tcp", [to]) => match TcpStream::connect_timeout(&address(to), Duration::from_secs(3)) {
            Ok(_) => ok(),
            Err(error) => Err(raw(error)),
        },
        // Says something, ends its half, and tells what it hears.
        ("talk", [to, said]) => talk(to, said),
        ("udp", [to]) => {
            let any = if address(to).is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            match UdpSocket::bind(any).and_then(|socket| socket.send_to(b"x", address(to))) {
                Ok(_) => ok(),
                Err(error) => Err(raw(error)),
            }
        }
        ("stream", [protocol, to]) => stream(crate::number(protocol) as i32, to),
        ("fast-open", [how, to]) => fast_open(how, to),
        _ => return None,
    })
}
