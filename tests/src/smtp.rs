//! The few words of SMTP that a scenario speaks itself, where a real mail server
//! would not do what is to be tried.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::machine::Machine;
use crate::message::{FROM, Message};
use crate::wait::wait_for;

/// No read of a scenario's own sockets may hang longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TCP connection from `machine`.
pub fn connect(machine: &Machine, address: &str, port: u16) -> Result<TcpStream> {
    let address = SocketAddr::new(address.parse()?, port);
    let stream = machine
        .enter(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?))
        .with_context(|| format!("connect from {} to {address}", machine.name()))?;
    prepare(&stream)?;
    Ok(stream)
}

/// A TCP connection from `machine`, from one of its addresses.
pub fn connect_from(machine: &Machine, from: &str, address: &str, port: u16) -> Result<TcpStream> {
    let from = SocketAddr::new(from.parse()?, 0);
    let address = SocketAddr::new(address.parse()?, port);
    let stream = machine.enter(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        Ok(TcpStream::from(socket))
    });
    let stream = stream.with_context(|| format!("connect from {from} to {address}"))?;
    prepare(&stream)?;
    Ok(stream)
}

/// A TCP socket that listens on `machine`.
pub fn listen(machine: &Machine, address: &str, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(address.parse()?, port);
    machine.enter(|| Ok(TcpListener::bind(address)?))
}

/// Takes the next connection from `listener`.
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let stream = wait_for("a connection", PATIENCE, || match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    stream.set_nonblocking(false)?;
    prepare(&stream)?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(())
}

/// Reads one reply, all of its lines, and not a byte more.
pub fn reply(stream: &mut impl Read) -> Result<String> {
    let mut reply = String::new();
    loop {
        let line = line(stream)?;
        let last = line.as_bytes().get(3) != Some(&b'-');
        reply += &line;
        if last {
            return Ok(reply);
        }
    }
}

/// Reads up to and with a line feed, and not a byte more.
pub fn line(stream: &mut impl Read) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        let read = stream.read(&mut byte).context("read a line")?;
        ensure!(read == 1, "closed after {:?}", String::from_utf8_lossy(&line));
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Sends a command and demands a reply that begins with `code`.
pub fn command(stream: &mut (impl Read + Write), command: &str, code: &str) -> Result<String> {
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let reply = reply(stream).with_context(|| format!("after {command}"))?;
    ensure!(reply.starts_with(code), "{command}: {reply}");
    Ok(reply)
}

/// Plays the sender's part up to the moment in which TLS begins.
pub fn up_to_tls(stream: &mut TcpStream) -> Result<()> {
    let greeting = reply(stream)?;
    ensure!(greeting.starts_with("220"), "{greeting}");
    command(stream, "EHLO mail.sender.example", "250")?;
    command(stream, "STARTTLS", "220")?;
    Ok(())
}

/// Plays the home mail server's part up to the same moment: reads the PROXY header (v2), then
/// answers. `after_starttls` is what it answers to STARTTLS.
pub fn serve_up_to_tls(stream: &mut TcpStream, after_starttls: &[u8]) -> Result<()> {
    let mut header = [0; 16];
    stream.read_exact(&mut header).context("PROXY header")?;
    ensure!(header.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "{header:?}");
    let length = u16::from_be_bytes([header[14], header[15]]);
    stream.read_exact(&mut vec![0; usize::from(length)])?;
    stream.write_all(b"220 mx.home.example ESMTP\r\n")?;
    let ehlo = line(stream)?;
    ensure!(ehlo.starts_with("EHLO "), "{ehlo}");
    stream.write_all(b"250-mx.home.example\r\n250 STARTTLS\r\n")?;
    let starttls = line(stream)?;
    ensure!(starttls.trim_end() == "STARTTLS", "{starttls}");
    stream.write_all(after_starttls)?;
    Ok(())
}

/// Hands over a message on a connection that is past its TLS handshake.
pub fn deliver(stream: &mut (impl Read + Write), message: &Message) -> Result<()> {
    command(stream, "EHLO mail.sender.example", "250")?;
    command(stream, &format!("MAIL FROM:<{FROM}>"), "250")?;
    command(stream, &format!("RCPT TO:<{}>", message.to()), "250")?;
    command(stream, "DATA", "354")?;
    let mut data = Vec::new();
    for line in message.bytes().split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            data.push(b'.');
        }
        data.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        data.extend_from_slice(b"\r\n");
    }
    stream.write_all(&data)?;
    command(stream, ".", "250")?;
    command(stream, "QUIT", "221")?;
    Ok(())
}
