//! Links that a test can cut, by who dials whom.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::raft::dial::{Dial, PeerIo};

/// Which links are cut: pairs of the dialling node's name and the dialled address.
#[derive(Clone, Default)]
pub struct Cuts(Arc<Mutex<HashSet<(String, String)>>>);

impl Cuts {
    pub fn cut(&self, from: &str, to: &str) {
        self.0.lock().insert((from.to_owned(), to.to_owned()));
    }

    pub fn heal(&self) {
        self.0.lock().clear();
    }

    pub fn dial(&self, from: &str) -> Arc<dyn Dial> {
        Arc::new(CutDial { cuts: self.clone(), from: from.to_owned() })
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.0.lock().contains(&(from.to_owned(), to.to_owned()))
    }
}

struct CutDial {
    cuts: Cuts,
    from: String,
}

impl Dial for CutDial {
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>> {
        let (cuts, from) = (self.cuts.clone(), self.from.clone());
        Box::pin(async move {
            if cuts.is_cut(&from, &addr) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            let stream = TcpStream::connect(&addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(CutIo { stream, cuts, from, addr }) as Box<dyn PeerIo>)
        })
    }
}

/// A connection that breaks at its next use once its link is cut.
struct CutIo {
    stream: TcpStream,
    cuts: Cuts,
    from: String,
    addr: String,
}

impl CutIo {
    fn check(&self) -> io::Result<()> {
        if self.cuts.is_cut(&self.from, &self.addr) {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }
}

impl AsyncRead for CutIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for CutIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
