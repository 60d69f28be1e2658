//! Whose zone is checked next: of those that wait, that of the owner whose zones took the least time of
//! late. An owner with many zones, or such as take long, waits for himself then, and not others for him.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Time that was taken counts half after this.
const HALF: Duration = Duration::from_secs(60);
/// Owners of whom is known what they took, before those are forgotten who took next to nothing.
const MANY: usize = 4096;
/// Next to nothing, in seconds. More owners than some thousands cannot have taken more than that.
const NOTHING: f64 = 0.01;

/// The turns of all owners `O`.
pub(crate) struct Turns<O: Owner>(Mutex<Line<O>>);

/// Whose zones have turns.
pub(crate) trait Owner: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static {}

impl<O: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static> Owner for O {}

/// A turn, until dropped.
pub(crate) struct Turn<O: Owner> {
    turns: Arc<Turns<O>>,
    owner: O,
    began: Instant,
    /// Whether somebody had it. It is passed on by who offers it otherwise.
    had: bool,
}

impl<O: Owner> Turns<O> {
    /// So many at once.
    pub(crate) fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Line::new(at_once))))
    }

    /// Waits for a turn of `owner`.
    pub(crate) async fn take(self: &Arc<Self>, owner: &O) -> Turn<O> {
        let (told, hears) = oneshot::channel();
        {
            let mut line = self.line();
            line.waiting.retain(|(_, told)| !told.is_closed());
            line.waiting.push((owner.clone(), told));
        }
        self.offer();
        // Whoever waits is told: the line is as old as `self`.
        hears.await.unwrap_or_else(|_| self.turn(owner.clone(), true))
    }

    fn line(&self) -> MutexGuard<'_, Line<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(self: &Arc<Self>, owner: O, had: bool) -> Turn<O> {
        Turn { turns: self.clone(), owner, began: Instant::now(), had }
    }

    /// Gives the turns that are free to those who are next.
    fn offer(self: &Arc<Self>) {
        loop {
            let next = self.line().next(Instant::now());
            let Some((owner, told)) = next else { return };
            if let Err(mut turn) = told.send(self.turn(owner, true)) {
                // Nobody waits for it any more.
                turn.had = false;
                self.line().free += 1;
            }
        }
    }
}

impl<O: Owner> Drop for Turn<O> {
    fn drop(&mut self) {
        if !self.had {
            return;
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        self.turns.line().ended(&self.owner, took, now);
        self.turns.offer();
    }
}

type Told<O> = oneshot::Sender<Turn<O>>;

/// Who waits, and what each took. Pure: times in, decisions out.
struct Line<O: Owner, W = Told<O>> {
    free: usize,
    /// In the order in which they came.
    waiting: Vec<(O, W)>,
    /// Seconds, as they counted at that time.
    taken: HashMap<O, (f64, Instant)>,
}

impl<O: Owner, W> Line<O, W> {
    fn new(free: usize) -> Self {
        Self { free, waiting: Vec::new(), taken: HashMap::new() }
    }

    /// Takes a turn for the one who took least; among such, who came first.
    fn next(&mut self, now: Instant) -> Option<(O, W)> {
        if self.free == 0 {
            return None;
        }
        let taken = |owner: &O| self.taken.get(owner).map_or(0.0, |taken| halved(*taken, now));
        let by_taken = self.waiting.iter().map(|(owner, _)| taken(owner)).enumerate();
        let (next, _) = by_taken.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        self.free -= 1;
        Some(self.waiting.remove(next))
    }

    fn ended(&mut self, owner: &O, took: Duration, now: Instant) {
        self.free += 1;
        if self.taken.len() >= MANY {
            self.taken.retain(|_, taken| halved(*taken, now) > NOTHING);
        }
        let before = self.taken.get(owner).map_or(0.0, |taken| halved(*taken, now));
        self.taken.insert(owner.clone(), (before + took.as_secs_f64(), now));
    }
}

fn halved((seconds, at): (f64, Instant), now: Instant) -> f64 {
    let since = now.saturating_duration_since(at).as_secs_f64();
    seconds * (-since / HALF.as_secs_f64()).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_took_least_is_next_and_time_makes_up_for_it() {
        let now = Instant::now();
        let mut line: Line<&str, u8> = Line::new(1);
        let seconds = Duration::from_secs;
        line.waiting = vec![("many", 1), ("many", 2), ("one", 3), ("other", 4)];
        assert_eq!(line.next(now), Some(("many", 1)));
        assert_eq!(line.next(now), None, "one at once");
        line.ended(&"many", seconds(5), now);
        assert_eq!(line.next(now), Some(("one", 3)));
        line.ended(&"one", seconds(1), now);
        assert_eq!(line.next(now), Some(("other", 4)));
        line.ended(&"other", seconds(20), now);
        line.waiting.push(("one", 5));
        assert_eq!(line.next(now), Some(("one", 5)));
        line.ended(&"one", seconds(5), now);
        line.waiting.push(("one", 6));
        assert_eq!(line.next(now), Some(("many", 2)));
        line.ended(&"many", seconds(0), now);
        // What was long ago counts for nothing.
        let later = now + seconds(600);
        line.ended(&"many", seconds(1), later);
        line.waiting.push(("many", 7));
        assert_eq!(line.next(later), Some(("one", 6)));
    }

    #[test]
    fn owners_who_took_nothing_are_forgotten() {
        let mut line: Line<usize, ()> = Line::new(0);
        let now = Instant::now();
        for owner in 0..20_000 {
            line.ended(&owner, Duration::from_millis(1), now);
        }
        assert!(line.taken.len() <= MANY);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_goes_on() {
        let turns = Turns::new(1);
        let first = turns.take(&1).await;
        let mut second = Box::pin(turns.take(&2));
        let mut third = Box::pin(turns.take(&3));
        let nothing = Duration::from_millis(1);
        assert!(tokio::time::timeout(nothing, &mut second).await.is_err());
        assert!(tokio::time::timeout(nothing, &mut third).await.is_err());
        drop(second);
        drop(first);
        drop(third.await);
        // One that was given and not taken.
        let first = turns.take(&1).await;
        let mut second = Box::pin(turns.take(&2));
        assert!(tokio::time::timeout(nothing, &mut second).await.is_err());
        drop(first);
        drop(second);
        assert_eq!(turns.line().free, 1);
        drop(turns.take(&3).await);
    }
}
