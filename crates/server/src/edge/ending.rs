//! A response body that says how it ended: the status of a stream stands in its trailers, or nowhere if the caller
//! went away.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::{Code, Status};

/// What is to be done when a call is over.
pub(super) trait Ending: Send + 'static {
    /// Is told the status; `message` is the trailers' where there is one.
    fn ended(self, code: Code, message: Option<&str>);
}

pin_project! {
    /// A body whose end is told to `T`; a body that is dropped before its end was cancelled.
    pub(super) struct Ended<T: Ending> {
        #[pin]
        inner: Body,
        ending: Told<T>,
    }
}

struct Told<T: Ending>(Option<T>);

impl<T: Ending> Ended<T> {
    /// Lets `ending` hear how the response ends. An answer of headers alone has ended already, and stays one:
    /// clients tell it from a broken stream by its missing body.
    pub(super) fn wrap(response: Response<Body>, ending: T) -> Response<Body> {
        if response.body().is_end_stream() {
            ending.ended(head_code(&response), None);
            return response;
        }
        response.map(|inner| Body::new(Self { inner, ending: Told(Some(ending)) }))
    }
}

/// The status in a response's headers: that of a refusal, and `Ok` where the status follows in trailers.
pub(super) fn head_code(response: &Response<Body>) -> Code {
    response.headers().get(Status::GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

impl<T: Ending> Told<T> {
    fn tell(&mut self, code: Code, message: Option<&str>) {
        if let Some(ending) = self.0.take() {
            ending.ended(code, message);
        }
    }
}

impl<T: Ending> Drop for Told<T> {
    fn drop(&mut self) {
        self.tell(Code::Cancelled, None);
    }
}

impl<T: Ending> HttpBody for Ended<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    match Status::from_header_map(trailers) {
                        Some(status) => this.ending.tell(status.code(), Some(status.message())),
                        None => this.ending.tell(Code::Unknown, None),
                    }
                }
            }
            Poll::Ready(Some(Err(status))) => this.ending.tell(status.code(), Some(status.message())),
            // A body that ends without trailers ended before its status was known.
            Poll::Ready(None) => this.ending.tell(Code::Unknown, None),
            Poll::Pending => {}
        }
        polled
    }

    // Never `true`, although the inner body may know: the end must be seen here.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
