//! What can go wrong, and how often it does: each seed has a theme of its own.

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A process is killed.
    Kill,
    /// A machine loses power.
    Power,
    /// All machines of the workers' group lose power.
    PowerAll,
    /// A process dies in the middle of a step of its stores.
    CrashAtStep,
    /// A disk returns an error.
    DiskError,
    /// A process stands still.
    Pause,
    /// A disk is slow.
    SlowDisk,
    /// The network falls into two parts.
    Partition,
    /// A link works in one direction only.
    OneWay,
    /// Whoever leads is cut off.
    IsolateLeader,
    /// Messages are lost.
    Loss,
    /// Messages are late, and overtake each other.
    Delays,
    /// Messages arrive twice.
    Repeats,
    /// A member is closed, after it handed over, and opened again.
    Close,
    /// A member hands over and stays for a while.
    HandOver,
    /// A time of day is set.
    DaySet,
    /// A worker joins.
    Join,
    /// A worker is lost for good and replaced.
    Replace,
    /// A worker is to leave its group for good.
    LeaveGroup,
    /// A master joins.
    JoinMaster,
    /// A master is lost for good and removed.
    RemoveMaster,
    /// A follower comes back so soon that its promise still counts.
    RestartWithinPromise,
    /// A leader hands over, and hears nothing of its end.
    HandOverUnheard,
    /// The network falls apart while two configurations decide together.
    SplitJoint,
    /// A leader is left alone with the standbys.
    WithStandbys,
    /// A worker that only the masters miss is replaced.
    ReplaceUnheard,
    /// The leader that a snapshot is pulled from falls away.
    BreakPull,
    /// A voter that is on its way out leads before the joint configuration is left.
    OutgoingLeads,
    /// Slots are to move to another group.
    MoveSlots,
    /// A move is called off.
    CancelMove,
    /// Somebody is lost in the middle of a move.
    StrikeMove,
    /// A group is to give all its slots away, or not after all.
    Drain,
    /// A worker founds a group.
    FoundGroup,
    /// Each group is to get its share.
    Share,
    /// Rows of a member are found rotten, and it has all of them replaced.
    Rot,
}

use Trouble::*;

/// What a seed is about.
#[derive(Debug, Clone)]
pub struct Theme {
    /// Its name.
    pub name: &'static str,
    /// Weights.
    pub weights: &'static [(u64, Trouble)],
    /// Milliseconds between troubles, on average.
    pub pause: u64,
    /// Members lose power once in so many votes that they give; 0 never.
    pub power_after_vote: u64,
}

const MIXED: &[(u64, Trouble)] = &[
    (4, Kill),
    (3, Power),
    (1, PowerAll),
    (3, CrashAtStep),
    (1, DiskError),
    (4, Pause),
    (2, SlowDisk),
    (4, Partition),
    (3, OneWay),
    (3, IsolateLeader),
    (2, Loss),
    (2, Delays),
    (2, Repeats),
    (2, Close),
    (2, HandOver),
    (1, DaySet),
    (2, Join),
    (2, Replace),
    (2, LeaveGroup),
    (1, JoinMaster),
    (1, RemoveMaster),
    (1, RestartWithinPromise),
    (1, HandOverUnheard),
    (1, SplitJoint),
    (1, WithStandbys),
    (1, ReplaceUnheard),
    (2, BreakPull),
    (1, OutgoingLeads),
    (2, Rot),
];

const THEMES: [Theme; 9] = [
    Theme { name: "mixed", weights: MIXED, pause: 1200, power_after_vote: 20 },
    Theme {
        name: "power",
        weights: &[
            (4, Power),
            (2, PowerAll),
            (4, CrashAtStep),
            (1, DiskError),
            (1, Kill),
            (2, Partition),
            (1, IsolateLeader),
            (1, SlowDisk),
            (1, Delays),
            (1, Replace),
            (1, Join),
        ],
        pause: 1500,
        power_after_vote: 3,
    },
    Theme {
        name: "reads",
        weights: &[
            (5, Pause),
            (3, SlowDisk),
            (4, RestartWithinPromise),
            (4, HandOverUnheard),
            (3, IsolateLeader),
            (2, OneWay),
            (2, Delays),
            (1, DaySet),
            (1, Repeats),
        ],
        pause: 2500,
        power_after_vote: 0,
    },
    Theme {
        name: "membership",
        weights: &[
            (4, Replace),
            (4, ReplaceUnheard),
            (4, LeaveGroup),
            (4, Join),
            (3, SplitJoint),
            (3, OutgoingLeads),
            (3, BreakPull),
            (2, Rot),
            (2, Power),
            (2, Kill),
            (2, Partition),
            (1, PowerAll),
            (1, CrashAtStep),
            (2, HandOver),
            (1, JoinMaster),
            (1, RemoveMaster),
        ],
        pause: 1500,
        power_after_vote: 10,
    },
    Theme {
        name: "network",
        weights: &[
            (4, Partition),
            (4, OneWay),
            (4, IsolateLeader),
            (3, WithStandbys),
            (3, Loss),
            (3, Delays),
            (3, Repeats),
            (1, Kill),
            (1, Pause),
        ],
        pause: 1200,
        power_after_vote: 20,
    },
    Theme {
        name: "handovers",
        weights: &[
            (5, HandOver),
            (5, Close),
            (4, HandOverUnheard),
            (3, Delays),
            (2, Repeats),
            (1, Pause),
            (1, Kill),
            (1, OneWay),
            (1, Join),
        ],
        pause: 1500,
        power_after_vote: 0,
    },
    Theme {
        name: "snapshots",
        weights: &[
            (4, Kill),
            (3, CrashAtStep),
            (3, Power),
            (3, Partition),
            (3, IsolateLeader),
            (3, Replace),
            (5, BreakPull),
            (4, Rot),
            (2, LeaveGroup),
            (2, Join),
            (1, Loss),
            (1, DiskError),
            (1, Pause),
        ],
        pause: 2000,
        power_after_vote: 20,
    },
    Theme {
        name: "masters",
        weights: &[
            (3, JoinMaster),
            (3, RemoveMaster),
            (3, Replace),
            (3, Join),
            (3, Kill),
            (2, Power),
            (2, Partition),
            (1, Pause),
            (1, Close),
            (1, CrashAtStep),
        ],
        pause: 1300,
        power_after_vote: 10,
    },
    Theme {
        name: "pairs",
        weights: &[
            (5, OutgoingLeads),
            (2, HandOver),
            (2, Close),
            (2, LeaveGroup),
            (2, Join),
            (2, Kill),
            (1, Power),
            (1, IsolateLeader),
            (1, OneWay),
            (1, Pause),
            (1, SlowDisk),
            (1, Delays),
            (2, Rot),
        ],
        pause: 2500,
        power_after_vote: 20,
    },
];

/// Slots move from group to group while all that happens.
const MOVES: Theme = Theme {
    name: "moves",
    weights: &[
        (14, MoveSlots),
        (8, CancelMove),
        (18, StrikeMove),
        (2, Drain),
        (3, FoundGroup),
        (1, Share),
        (4, Kill),
        (3, Power),
        (1, PowerAll),
        (2, CrashAtStep),
        (1, DiskError),
        (2, Pause),
        (2, SlowDisk),
        (3, Partition),
        (2, OneWay),
        (3, IsolateLeader),
        (2, Loss),
        (2, Delays),
        (2, Repeats),
        (1, Close),
        (1, HandOver),
        (1, DaySet),
        (2, Join),
        (1, Replace),
        (2, LeaveGroup),
        (1, JoinMaster),
        (1, RemoveMaster),
        (1, BreakPull),
        (1, WithStandbys),
        (1, Rot),
    ],
    pause: 700,
    power_after_vote: 20,
};

/// The theme of a seed. Each third one is about moves.
pub fn theme(seed: u64) -> Theme {
    match seed % 3 {
        2 => MOVES,
        other => THEMES[((seed / 3 * 2 + other) % THEMES.len() as u64) as usize].clone(),
    }
}
