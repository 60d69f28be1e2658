//! When what of a zone is due. Pure: time and date are the caller's.

use std::time::Duration;

use tokio::time::Instant;

/// Before the first version of an agent that just started: for relays and the mail server to say what
/// changed meanwhile.
const AT_START: Duration = Duration::from_secs(3);
/// Between looks at all that the mail server shows, with up to a half more.
const LOOK: Duration = Duration::from_secs(30 * 60);
/// Until the next attempt after one that failed.
const RETRY: Duration = Duration::from_secs(10 * 60);
/// How often the date and the owner's files are looked at. Timers do not run while a machine sleeps, and
/// know nothing of a clock that was set; signatures and the waits for keys go by the date.
const GLANCE: Duration = Duration::from_secs(10);
/// By how much the date has to be ahead of the timers to be believed to have jumped, in seconds.
const JUMP: u64 = 30;
/// Changes in a row: as when an owner adds relays and domains.
const CHANGES: u32 = 20;
/// Until there may be one more.
const CHANGE_AGAIN: Duration = Duration::from_secs(60);

/// What is due when.
pub struct Due {
    /// A new version, or a question to the primary.
    version: Instant,
    /// A look at the mail server.
    look: Instant,
    /// A look at the owner's files.
    files: Instant,
    /// Listening to the relays, where one said something.
    hear: Option<Instant>,
    patience: Patience,
    /// The last look at the date.
    glanced: (Instant, u64),
}

/// Around a day, so that not all zones are signed at once.
fn daily() -> Duration {
    Duration::from_secs(22 * 3600).mul_f64(1.0 + rand::random::<f64>() / 6.0)
}

impl Due {
    /// As for an agent that starts at `now`, when the clock shows `date`, in seconds since 1970.
    pub fn new(now: Instant, date: u64) -> Self {
        Self {
            version: now + AT_START,
            look: now,
            files: now,
            hear: None,
            patience: Patience::new(now),
            glanced: (now, date),
        }
    }

    /// Takes note of the date. By how many seconds it jumped, if it did: then all that may have been due
    /// meanwhile is due.
    pub fn glance(&mut self, now: Instant, date: u64) -> Option<u64> {
        let (at, before) = std::mem::replace(&mut self.glanced, (now, date));
        let passed = now.saturating_duration_since(at).as_secs();
        let ahead = date.saturating_sub(before).saturating_sub(passed);
        let jumped = Some(ahead).filter(|ahead| *ahead >= JUMP);
        if jumped.is_some() {
            (self.version, self.look) = (now, now);
        }
        jumped
    }

    /// A version is due within `wait`.
    pub fn version_within(&mut self, now: Instant, wait: Duration) {
        self.version = self.version.min(now + wait);
    }

    /// A version is due, and what else comes within the next seconds comes with it.
    pub fn version_soon(&mut self, now: Instant) {
        self.version_within(now, AT_START);
    }

    /// The last attempt failed.
    pub fn version_again(&mut self, now: Instant) {
        self.version_within(now, RETRY);
    }

    /// Another attempt after `pause`, and not before.
    pub fn version_after(&mut self, now: Instant, pause: Duration) {
        self.version = now + pause;
    }

    /// A version is begun. When it was due: for the case that nothing comes of it.
    pub fn version_begun(&mut self, now: Instant) -> Instant {
        std::mem::replace(&mut self.version, now + daily())
    }

    /// Nothing came of it: what it was begun for, beside one thing that failed, is still due.
    pub fn version_as_before(&mut self, due: Instant) {
        self.version = self.version.min(due);
    }

    /// Whether a version is due.
    pub fn is_version(&self, now: Instant) -> bool {
        self.version <= now
    }

    /// The mail server may show something else.
    pub fn look_now(&mut self, now: Instant) {
        self.look = now;
    }

    /// It could not be asked.
    pub fn look_again(&mut self, now: Instant) {
        self.look = now + RETRY;
    }

    /// Whether to look at it, which is then begun.
    pub fn takes_look(&mut self, now: Instant) -> bool {
        let due = self.look <= now;
        if due {
            self.look = now + LOOK.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        }
        due
    }

    /// Whether to look at the owner's files, which is then begun. No timer of its own: it is done when
    /// the date is looked at.
    pub fn takes_files(&mut self, now: Instant) -> bool {
        let due = self.files <= now;
        if due {
            self.files = now + GLANCE;
        }
        due
    }

    /// A relay said something.
    pub fn relay_spoke(&mut self, now: Instant) {
        self.hear.get_or_insert(now);
    }

    /// Whether relays are listened to now.
    pub fn takes_hear(&mut self, now: Instant) -> bool {
        if self.hear.is_none_or(|due| due > now) {
            return false;
        }
        self.hear = Some(self.patience.ready_at(now)).filter(|due| *due > now);
        self.hear.is_none()
    }

    /// What they said changed something.
    pub fn heard_news(&mut self, now: Instant) {
        self.patience.spend(now);
    }

    /// When to wake. What is under way is not begun again.
    pub fn next(&self, busy: bool, looking: bool) -> Instant {
        let version = Some(self.version).filter(|_| !busy);
        let look = Some(self.look).filter(|_| !looking);
        let glance = self.glanced.0 + GLANCE;
        version.into_iter().chain(look).chain(self.hear).fold(glance, Instant::min)
    }
}

/// How often what relays say may change the zone: so many times in a row, and then once in a while. A
/// relay that says something else each second would have the box sign, write and tell all day.
struct Patience {
    left: u32,
    /// When there is one more.
    next: Instant,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self { left: CHANGES, next: now + CHANGE_AGAIN }
    }

    /// When relays may be listened to: now, or later.
    fn ready_at(&mut self, now: Instant) -> Instant {
        while self.left < CHANGES && self.next <= now {
            self.left += 1;
            self.next += CHANGE_AGAIN;
        }
        if self.left == 0 { self.next } else { now }
    }

    /// What they said changed something.
    fn spend(&mut self, now: Instant) {
        if self.left == CHANGES {
            self.next = now + CHANGE_AGAIN;
        }
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: u64 = 1_790_000_000;

    #[test]
    fn a_relay_that_never_says_the_same_is_listened_to_now_and_then() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        for second in 0..u64::from(CHANGES) {
            let now = start + Duration::from_secs(second);
            assert_eq!(patience.ready_at(now), now);
            patience.spend(now);
        }
        let now = start + Duration::from_secs(CHANGES.into());
        assert_eq!(patience.ready_at(now), start + CHANGE_AGAIN);
        let mut heard = 0;
        for second in 0..3600 {
            let now = start + CHANGE_AGAIN + Duration::from_secs(second);
            if patience.ready_at(now) == now {
                patience.spend(now);
                heard += 1;
            }
        }
        assert_eq!(heard, 60);
        let later = start + Duration::from_secs(86_400);
        assert_eq!((patience.ready_at(later), patience.left), (later, CHANGES));
    }

    #[test]
    fn what_was_due_while_a_machine_slept_is_due_when_it_wakes() {
        let start = Instant::now();
        let mut due = Due::new(start, DATE);
        due.version_begun(start);
        assert!(due.takes_look(start) && !due.takes_look(start));
        let later = start + Duration::from_secs(10);
        assert_eq!(due.glance(later, DATE + 12), None);
        assert!(!due.is_version(later));
        // The timers stood still for an hour.
        let woken = later + Duration::from_secs(1);
        assert_eq!(due.glance(woken, DATE + 3600), Some(3587));
        assert!(due.is_version(woken) && due.takes_look(woken));
        // A clock that is set back is no jump.
        assert_eq!(due.glance(woken, DATE), None);
    }

    #[test]
    fn the_owners_files_are_looked_at_with_the_date_and_wake_nobody() {
        let start = Instant::now();
        let mut due = Due::new(start, DATE);
        due.version_begun(start);
        due.takes_look(start);
        assert!(due.takes_files(start) && !due.takes_files(start));
        assert_eq!(due.next(false, false), start + GLANCE);
        assert!(due.takes_files(start + GLANCE));
    }

    #[test]
    fn what_a_version_was_due_for_is_not_lost_with_an_update_that_is_refused() {
        let start = Instant::now();
        let mut due = Due::new(start, DATE);
        let before = due.version_begun(start);
        assert!(!due.is_version(start + AT_START));
        due.version_as_before(before);
        assert!(due.is_version(start + AT_START));
    }
}
