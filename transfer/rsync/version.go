package rsync

// MinimumVersion is the oldest rsync that is run unless configured otherwise: what
// is older has known holes that a hostile peer or a hostile tree can use.
const MinimumVersion = "3.5.0"
