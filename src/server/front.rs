//! The front of a node: from an accepted socket to requests for the door, and what happens when none comes.
//!
//! actix parses and frames; the front looks after each connection around it. It lets a connection go whose head does
//! not come in time or that is idle for too long, says in a problem document what the parser says with a bare status,
//! and when the node stops it answers what was sent before it closes. Per request that costs a few cells and one look
//! at the clock.

use super::door::Door;
use super::line::{At, Errand, Expected, Line};
use super::metrics::Label;
use super::patience::{Limits, Patience, Verdict};
use super::refuse;
use super::site::Site;
use super::wire::{End, Wire};
use crate::error::Error;
use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Request};
use actix_service::map_config;
use actix_web::App;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Payload, Service, ServiceFactory, ServiceResponse, fn_factory, fn_service};
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::{sleep, timeout};

/// How long a client may take to read a last word and hang up, before the connection is cut.
const LAST_WORD: Duration = Duration::from_secs(2);
/// The same while the node stops.
const LAST_WORD_STOPPING: Duration = Duration::from_millis(300);

/// What the connections of one thread share.
pub(crate) struct Front {
    site: Arc<Site>,
    limits: Limits,
    /// When the node was told to stop.
    stopped: Cell<Option<Instant>>,
    /// Wakes every connection when it is.
    stop: Notify,
}

/// Counts a connection as open until it is dropped.
struct Open<'a>(&'a Site);

/// How a conversation ended.
enum Ending {
    /// By itself.
    Over(Result<(), DispatchError>),
    /// The front lost its patience while the connection was at this.
    Cut(At),
}

/// The body of an answer, which keeps its request under way until it was given away.
struct Sent {
    body: BoxBody,
    _errand: Option<Errand>,
}

/// Serves accepted sockets: one such service per thread.
pub(crate) fn service(
    site: Arc<Site>,
    limits: Limits,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> {
    fn_factory(move || {
        let site = Arc::clone(&site);
        async move {
            let front = Front::open(site, limits);
            let http = Rc::new(http(Arc::clone(&front.site)).new_service(()).await?);
            Ok(fn_service(move |socket| {
                let (front, http) = (Rc::clone(&front), Rc::clone(&http));
                async move {
                    front.converse(&*http, socket).await;
                    Ok::<_, ()>(())
                }
            }))
        }
    })
}

/// actix's part: it reads requests from a wire and asks the door. Keep-alive is left to the front.
fn http(
    site: Arc<Site>,
) -> impl ServiceFactory<
    (End, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
    Service: Service<(End, Option<SocketAddr>), Response = (), Error = DispatchError>,
> {
    let door = Rc::new(Door::new(site));
    let app = App::new().default_service(fn_service(move |request| Rc::clone(&door).serve(request)));
    let app = map_config(app, |()| AppConfig::default());
    let accounted = fn_factory(move || {
        let app = app.new_service(());
        async move {
            let app = Rc::new(app.await?);
            Ok::<_, ()>(fn_service(move |request| account(&*app, request)))
        }
    });
    HttpService::build()
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(LAST_WORD)
        .on_connect_ext(|end: &End, data| drop(data.insert(end.line())))
        .h1(accounted)
}

/// Hands a request to `app`, and keeps its connection's account.
fn account<A>(
    app: &A,
    mut request: Request,
) -> impl Future<Output = Result<ServiceResponse<Sent>, A::Error>> + use<A>
where
    A: Service<Request, Response = ServiceResponse>,
{
    let expected = match request.payload() {
        Payload::None => Expected::Nothing,
        _ => match request.head().headers.get(CONTENT_LENGTH).map(|length| length.to_str().map(str::parse)) {
            Some(Ok(Ok(length))) => Expected::Bytes(length),
            _ => Expected::Chunks,
        },
    };
    let errand = request.conn_data::<Rc<Line>>().map(|line| line.arrived(expected));
    let answer = app.call(request);
    async move { Ok(answer.await?.map_body(|_, body| Sent { body, _errand: errand })) }
}

impl Front {
    fn open(site: Arc<Site>, limits: Limits) -> Rc<Front> {
        let front = Rc::new(Front { site, limits, stopped: Cell::new(None), stop: Notify::new() });
        actix_web::rt::spawn({
            let front = Rc::clone(&front);
            async move {
                // The sender lives as long as the site.
                drop(front.site.stopping.subscribe().wait_for(|stopping| *stopping).await);
                front.stopped.set(Some(Instant::now()));
                front.stop.notify_waiters();
            }
        });
        front
    }

    /// Serves one connection to its end.
    async fn converse<H>(&self, http: &H, socket: TcpStream)
    where
        H: Service<(End, Option<SocketAddr>), Response = (), Error = DispatchError>,
    {
        let _open = Open::count(&self.site);
        cut_off_idle_readers(&socket);
        let peer = socket.peer_addr().ok();
        let line = Line::new();
        let wire = Rc::new(RefCell::new(Wire::new(socket, Rc::clone(&line))));
        let ending = {
            let talk = pin!(http.call((End::of(&wire), peer)));
            self.watch(talk, &line, &wire).await
        };
        let last_word = self.last_word(&ending, &line, &wire.borrow());
        // The parser's end of the wire went with the parser.
        let Some(wire) = Rc::into_inner(wire) else { return };
        let mut socket = wire.into_inner().socket;
        match last_word {
            // On the heap, so that those who need no last word leave no room for it.
            Some(refused) => Box::pin(self.say(&mut socket, &refused)).await,
            None => drop(socket.shutdown().await),
        }
    }

    /// Lets `talk` go on until it ends or patience does.
    async fn watch(
        &self,
        mut talk: Pin<&mut impl Future<Output = Result<(), DispatchError>>>,
        line: &Line,
        wire: &RefCell<Wire>,
    ) -> Ending {
        let (mut timer, mut stop) = (pin!(sleep(self.limits.head)), pin!(self.stop.notified()));
        let mut patience = Patience::new(self.limits);
        poll_fn(|context| {
            if !patience.armed() && self.stopped.get().is_none() {
                // Once is enough: it wakes this task.
                let _ = stop.as_mut().poll(context);
            }
            let mut looked = false;
            loop {
                if let Poll::Ready(end) = talk.as_mut().poll(context) {
                    return Poll::Ready(Ending::Over(end));
                }
                let (at, rang) = (line.at(), patience.armed() && timer.is_elapsed());
                match patience.judge(at, line.served(), rang, self.stopped.get(), Instant::now) {
                    Verdict::Wait => return Poll::Pending,
                    Verdict::Ring(when) => {
                        timer.as_mut().reset(when.into());
                        // It must be set even if the talk has used up this task's turn.
                        if Pin::new(&mut unconstrained(timer.as_mut())).poll(context).is_pending() {
                            return Poll::Pending;
                        }
                    }
                    Verdict::Over if looked => return Poll::Ready(Ending::Cut(at)),
                    Verdict::Over => {
                        // A thread that was busy must not blame the client.
                        wire.borrow().look_once();
                        looked = true;
                    }
                }
            }
        })
        .await
    }

    /// What is left to say when a conversation is over.
    fn last_word(&self, ending: &Ending, line: &Line, wire: &Wire) -> Option<Error> {
        if let Some(status) = wire.refused() {
            let reason = match ending {
                Ending::Over(Err(DispatchError::Parse(reason))) => Some(reason),
                _ => None,
            };
            return Some(refuse::unreadable(reason, status));
        }
        match ending {
            Ending::Over(_) if line.hung_up() && line.at() == At::Head => Some(refuse::ended_early()),
            Ending::Cut(At::Head) if self.stopped.get().is_some() => Some(refuse::stopping()),
            Ending::Cut(At::Fresh) if self.stopped.get().is_some() => None,
            Ending::Cut(At::Head | At::Fresh) => Some(refuse::too_slow(self.limits.head)),
            _ => None,
        }
    }

    /// Answers and hangs up. What the client still sends is thrown away for a while, because a connection that is
    /// closed with unread bytes takes the answer back.
    async fn say(&self, socket: &mut TcpStream, refused: &Error) {
        let (status, bytes) = refuse::answer(refused);
        log::debug!("a client is let go: {refused}");
        self.site.metrics.finish(Label::Other, status, Duration::ZERO);
        let limit = if self.stopped.get().is_some() { LAST_WORD_STOPPING } else { LAST_WORD };
        let farewell = async {
            socket.write_all(&bytes).await?;
            socket.shutdown().await?;
            let mut waste = [0; 4096];
            while socket.read(&mut waste).await? > 0 {}
            std::io::Result::Ok(())
        };
        if let Ok(Err(error)) = timeout(limit, farewell).await {
            log::debug!("a client was not told {status}: {error}");
        }
    }
}

impl<'a> Open<'a> {
    fn count(site: &'a Site) -> Open<'a> {
        site.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Open(site)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MessageBody for Sent {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// A client that takes nothing of its answer for so long is cut off by the system (TCP_USER_TIMEOUT counts bytes that
/// are not acknowledged, also while the client's window is closed).
fn cut_off_idle_readers(socket: &TcpStream) {
    const PATIENCE_MS: u32 = 30_000;
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(socket, PATIENCE_MS) {
        log::debug!("a connection keeps the system's own patience: {error}");
    }
}
