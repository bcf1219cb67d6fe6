package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// freezeLimit is how long a file system stands still at most: a watchdog in the
// guest thaws it then, whatever became of the command.
const freezeLimit = 60 * time.Second

// freezeScript stops all writing to the file systems of data disks and names
// each on a line. (busybox knows the long options alone.) Those that the system itself lives on are left out: with them
// frozen nobody could log in to thaw them. The watchdog is there first.
const freezeScript = `
run=/run; [ -w "$run" ] || run=/tmp
list= seen=
while read -r dev at type rest; do
	case $dev in /dev/*) ;; *) continue ;; esac
	case $type in ext2|ext3|ext4|xfs|btrfs|f2fs|jfs|reiserfs) ;; *) continue ;; esac
	case $at in /|/boot|/boot/*|/etc|/usr|/var|/var/log|/run|/tmp|/home|/root) continue ;; esac
	case $at in *\\*) echo "cannot freeze $at" >&2; exit 1 ;; esac
	case " $seen " in *" $dev "*) continue ;; esac
	seen="$seen $dev" list="$list $at"
done < /proc/mounts
[ -n "$list" ] || exit 0
command -v fsfreeze > /dev/null || { echo "fsfreeze is not installed" >&2; exit 1; }
(trap '' HUP; sleep %d; for at in $list; do fsfreeze --unfreeze "$at"; done) < /dev/null > /dev/null 2>&1 &
echo $! > "$run/stead-thaw.pid"
sync
for at in $list; do
	if ! fsfreeze --freeze "$at"; then
		for done in $list; do fsfreeze --unfreeze "$done" 2> /dev/null; done
		exit 1
	fi
	echo "$at"
done
`

// thawScript lets the file systems go on that are its arguments, and names
// those that stood still until now.
const thawScript = `
run=/run; [ -w "$run" ] || run=/tmp
for at in %s; do fsfreeze --unfreeze "$at" 2> /dev/null && echo "$at"; done
pid=$(cat "$run/stead-thaw.pid" 2> /dev/null) && kill "$pid" 2> /dev/null
rm -f "$run/stead-thaw.pid"
exit 0
`

// frozen runs take with the data disks' file systems at rest, if that is asked
// for, and notes whether they were so to the end.
func (m *Manager) frozen(ctx context.Context, w *world, o SnapshotOptions, p *setPlan, take func() error) (err error) {
	if !o.Freeze || w.instance == nil || stateOf(w.instance) == types.InstanceStateNameStopped {
		return take() // nothing writes to disks that lie still
	}
	if m.guest == nil {
		return &Error{Code: KindUnsupported, Reason: "there is no way into the server to freeze its file systems", Remedy: "leave --freeze away"}
	}
	s := m.view(w)
	out, err := m.guest.Run(ctx, s, fmt.Sprintf(freezeScript, int(freezeLimit.Seconds())))
	mounts := strings.Fields(out)
	// Thawed also where ctx ended meanwhile: a server that hangs is worse than
	// a command that ends a moment later.
	defer func() {
		if len(mounts) > 0 && err != nil {
			_, _ = m.thaw(ctx, s, mounts)
		}
	}()
	if err != nil {
		return wrap("freeze the file systems of", "server "+w.name, err)
	}
	if len(mounts) == 0 {
		m.warn("freeze", w.name, "it has no file system on a data disk")
		return take()
	}
	if err := take(); err != nil {
		return err
	}
	still, thawErr := m.thaw(ctx, s, mounts)
	if thawErr != nil || len(still) != len(mounts) {
		m.warn("freeze", w.name, "the file systems didn't stand still until the snapshot was taken: it is as after a power failure")
		return nil
	}
	return m.markFrozen(ctx, p)
}

// thaw returns the mount points that were frozen until it came.
func (m *Manager) thaw(ctx context.Context, s *Server, mounts []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), freezeLimit)
	defer cancel()
	out, err := m.guest.Run(ctx, s, fmt.Sprintf(thawScript, strings.Join(mounts, " ")))
	return strings.Fields(out), err
}

// markFrozen says on a set that its file systems stood still. It is said last:
// a command that was cut off claims nothing.
func (m *Manager) markFrozen(ctx context.Context, p *setPlan) error {
	ids, err := m.takenIDs(ctx, p, func(s *types.Snapshot) bool { return !hasTag(s.Tags, tagSetFrozen) })
	if err != nil || len(ids) == 0 {
		return err
	}
	_, err = m.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: tagMap{tagSetFrozen: yesNo(true)}.list()})
	return wrap("mark as frozen", "set "+p.id, err)
}
