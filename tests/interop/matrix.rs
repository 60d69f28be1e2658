//! Runs conditions: has every sender send by every route, and watches what becomes of it.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use sealpost_tests::message::Message;

use crate::conditions::{Condition, Expected, Repair};
use crate::kinds::{Kind, Sender};
use crate::lab::Lab;
use crate::names::{self, Route};
use crate::wire;

/// How often all logs and mailboxes are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long messages are watched after the last thing that was waited for.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// How long a condition may take on each side of its repair.
const PATIENCE: Duration = Duration::from_secs(120);

/// One message: from one kind of sender, by one route, under one condition.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    pub(crate) route: Route,
    pub(crate) condition: Condition,
    pub(crate) fate: Fate,
    word: String,
    to: String,
    pub(crate) sent: SystemTime,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Fate {
    /// After which time it was in the mailbox.
    pub(crate) arrived: Option<Duration>,
    /// Whether the mail server at home says that it came through TLS.
    pub(crate) sealed: bool,
    /// How often it arrived.
    pub(crate) copies: usize,
    /// How often its sender put it off.
    pub(crate) deferrals: usize,
    /// Whether its sender gave it back to its author.
    pub(crate) bounced: bool,
    /// Whether it could be read on its way.
    pub(crate) readable: bool,
}

impl Cell {
    fn new(kind: Kind, route: Route, condition: Condition) -> Cell {
        Cell::called(condition.word(), kind, route, condition)
    }

    /// The same with a word of its own.
    pub(crate) fn called(word: &str, kind: Kind, route: Route, condition: Condition) -> Cell {
        let word = format!("{word}.{}.{}", route.word(), kind.word());
        let domain = names::domain(kind, route, condition != Condition::Unknown);
        let to = format!("anna+{word}@{domain}");
        Cell { kind, route, condition, word, to, sent: SystemTime::now(), fate: Fate::default() }
    }

    /// Gives it to its sender.
    pub(crate) fn send(&mut self, sender: &Sender) -> Result<()> {
        self.sent = SystemTime::now();
        let message = Message::repeating(&self.to, &wire::line(&self.word));
        sender.server.send(&sender.machine, &message).with_context(|| format!("send {}", self.to))
    }

    /// Whether a line of a log is about it.
    pub(crate) fn is_in(&self, line: &str) -> bool {
        line.contains(&self.to)
    }

    pub(crate) fn expected(&self) -> Expected {
        self.condition.expected(self.kind, self.route)
    }

    /// Whether it is as it must be.
    pub(crate) fn is_right(&self) -> bool {
        let Fate { arrived, sealed, copies, deferrals, bounced, readable } = self.fate;
        let once = arrived.is_some() && copies == 1 && sealed;
        !bounced
            && !readable
            && match self.expected() {
                Expected::AtOnce => once && deferrals == 0,
                Expected::AfterRetry => once && deferrals > 0,
                Expected::Either => once,
                Expected::Deferred => arrived.is_none() && deferrals > 0,
            }
    }

    /// Whether there is nothing more to wait for.
    fn is_over(&self) -> bool {
        match self.expected() {
            // Where nothing is repaired a second refusal shows that it stays so.
            Expected::Deferred => {
                self.fate.deferrals > usize::from(self.condition == Condition::Unknown)
            }
            _ => self.fate.arrived.is_some(),
        }
    }

    fn look(&mut self, lab: &Lab, logs: &HashMap<&str, (String, &Sender)>) {
        let arrivals = lab.home.with(&format!("readable<{}>", self.word));
        if let Some(first) = arrivals.iter().min_by_key(|arrival| arrival.at) {
            self.fate.arrived = Some(first.at.duration_since(self.sent).unwrap_or_default());
            self.fate.sealed = arrivals.iter().all(|arrival| arrival.came_sealed());
            self.fate.copies = arrivals.len();
        }
        if let Some((log, sender)) = logs.get(self.kind.word()) {
            let about = |what: &str| {
                log.lines().filter(|line| self.is_in(line) && line.contains(what)).count()
            };
            let (deferrals, bounces) =
                (about(sender.server.deferral()), about(sender.server.bounce()));
            self.fate.deferrals = deferrals;
            self.fate.bounced = bounces > 0;
        }
        // OpenSMTPD soon tells the author of a message that it is late, which is no bounce.
        let returned = lab.author.with(&self.word);
        self.fate.bounced |= returned.iter().any(|mail| !mail.text.contains("Action: delayed"));
        self.fate.readable = lab.wire.could_read(&self.word);
    }
}

/// Runs one condition with all senders.
pub(crate) fn run(lab: &mut Lab, condition: Condition) -> Result<Vec<Cell>> {
    let began = Instant::now();
    condition.begin(lab).with_context(|| format!("begin {}", condition.title()))?;
    let mut apart = send_all(lab, condition, is_apart)?;
    watch(lab, &mut apart, PATIENCE, |cell| cell.fate.deferrals > 0)?;
    for sender in lab.senders.iter().filter(|sender| is_apart(sender.kind, Route::Shared)) {
        sender.server.withdraw(&sender.machine)?;
    }
    let mut cells = send_all(lab, condition, |kind, route| !is_apart(kind, route))?;
    match condition.repair_comes() {
        Repair::Never => {}
        Repair::After(time) => {
            let end = Instant::now() + time;
            watch(lab, &mut cells, time, |_| Instant::now() >= end)?;
        }
        Repair::OnceDeferred => {
            watch(lab, &mut cells, PATIENCE, |cell| {
                cell.fate.deferrals > 0 || cell.fate.arrived.is_some()
            })?;
        }
    }
    condition.repair(lab).with_context(|| format!("repair {}", condition.title()))?;
    watch(lab, &mut cells, PATIENCE, Cell::is_over)?;
    // A copy too many, a bounce, or a readable attempt, would come now at the latest.
    watch(lab, &mut cells, LAST_LOOK, |_| false)?;
    // After the last look: what OpenSMTPD is told to forget, it tells the author.
    for sender in &lab.senders {
        sender.server.withdraw(&sender.machine)?;
    }
    cells.extend(apart);
    let wrong = cells.iter().filter(|cell| !cell.is_right()).count();
    eprintln!(
        "{}: {} messages, {wrong} not as expected, {:.0} s",
        condition.title(),
        cells.len(),
        began.elapsed().as_secs_f64()
    );
    for cell in &cells {
        let mark = if cell.is_right() { " " } else { "!" };
        eprintln!(" {mark} {:40} {:?}", cell.word, cell.fate);
    }
    Ok(cells)
}

/// Whether this message is sent before the others, and taken back when it has been put off: it cannot
/// arrive, and what its sender would do for it again and again at a shared address, in seconds instead
/// of hours, would be a reason for the relay to doubt whom it means with the others.
fn is_apart(kind: Kind, route: Route) -> bool {
    !kind.sends_name() && route == Route::Shared
}

fn send_all(
    lab: &Lab,
    condition: Condition,
    which: impl Fn(Kind, Route) -> bool + Copy + Send + Sync,
) -> Result<Vec<Cell>> {
    thread::scope(|scope| {
        let sending: Vec<_> = lab
            .senders
            .iter()
            .map(|sender| {
                scope.spawn(move || -> Result<Vec<Cell>> {
                    let new = |route| Cell::new(sender.kind, route, condition);
                    let routes = Route::ALL.into_iter().filter(|route| which(sender.kind, *route));
                    let mut cells: Vec<Cell> = routes.map(new).collect();
                    cells.iter_mut().try_for_each(|cell| cell.send(sender))?;
                    Ok(cells)
                })
            })
            .collect();
        let mut cells = Vec::new();
        for one in sending {
            match one.join() {
                Ok(sent) => cells.extend(sent?),
                Err(_) => bail!("a panic while sending"),
            }
        }
        Ok(cells)
    })
}

/// Looks until all cells are `enough`, or the time is over.
pub(crate) fn watch(
    lab: &mut Lab,
    cells: &mut [Cell],
    patience: Duration,
    enough: impl Fn(&Cell) -> bool,
) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        lab.home.look()?;
        lab.author.look()?;
        for sender in &mut lab.senders {
            sender.nudge()?;
        }
        let logs: HashMap<_, _> =
            lab.senders.iter().map(|sender| (sender.kind.word(), (sender.log(), sender))).collect();
        cells.iter_mut().for_each(|cell| cell.look(lab, &logs));
        if cells.iter().all(&enough) || Instant::now() >= end {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}

/// Proves that a bounce and a readable message would be noticed: every sender sends one message to
/// a mail server that refuses it, and one to a mail server that has no TLS.
pub(crate) fn prove_the_lab(lab: &mut Lab) -> Result<()> {
    let bounce = |kind: Kind| format!("control.bounce.{}", kind.word());
    let plain = |kind: Kind| format!("control.plain.{}", kind.word());
    for sender in &lab.senders {
        let kind = sender.kind;
        let refused = format!("nobody+{}@refused.example", bounce(kind));
        let message = Message::repeating(&refused, &wire::line(&bounce(kind)));
        sender.server.send(&sender.machine, &message)?;
        if !kind.insists() {
            let to = format!("bob+{}@plain.example", plain(kind));
            let message = Message::repeating(&to, &wire::line(&plain(kind)));
            sender.server.send(&sender.machine, &message)?;
        }
    }
    for kind in lab.senders.iter().map(|sender| sender.kind).collect::<Vec<_>>() {
        let end = Instant::now() + Duration::from_secs(40);
        loop {
            lab.author.look()?;
            let log = lab.senders.iter().find(|sender| sender.kind == kind).context("it")?;
            let word = bounce(kind);
            let logged = log
                .log()
                .lines()
                .any(|line| line.contains(&word) && line.contains(log.server.bounce()));
            let came = !lab.author.with(&word).is_empty();
            let read = kind.insists() || lab.wire.could_read(&plain(kind));
            if logged && came && read {
                break;
            }
            if Instant::now() >= end {
                bail!(
                    "{}: a bounce is {} in its log and {} in the author's mailbox, \
                     a readable message was {} on the wire",
                    kind.title(),
                    if logged { "noticed" } else { "not noticed" },
                    if came { "noticed" } else { "not noticed" },
                    if read { "noticed" } else { "not noticed" },
                );
            }
            thread::sleep(LOOK);
        }
    }
    Ok(())
}
