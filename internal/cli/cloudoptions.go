package cli

import (
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

var accountGrammar = regexp.MustCompile(`^[0-9]{12}$`)

// checkStart tells whether a local cloud can be started with these options.
// It names each as the user gave it: by its flag, or by its variable.
func (a *App) checkStart(o cloud.StartOptions) error {
	if o.Listen != "" && !isHostPort(o.Listen) {
		return a.badOption("--listen", "STEAD_LISTEN", o.Listen, "HOST:PORT such as 127.0.0.1:8773")
	}
	if !slices.Contains([]string{"", "auto", "none"}, o.Machines) {
		return a.badOption("--machines", "STEAD_MACHINES", o.Machines, "auto or none")
	}
	if !slices.Contains([]string{"", "auto", "kvm", "tcg"}, o.Accel) {
		return a.badOption("--accel", "STEAD_ACCEL", o.Accel, "auto, kvm or tcg")
	}
	if o.Account != "" && !accountGrammar.MatchString(o.Account) {
		return a.badOption("--account-id", "STEAD_ACCOUNT_ID", o.Account, "twelve digits")
	}
	if d := o.TrashDays; d != nil && (*d < 0 || *d > maxTrashDays) {
		return usage("--trash-days (or STEAD_TRASH_DAYS): want a number from 0 to %d", maxTrashDays)
	}
	return nil
}

// maxTrashDays bounds how long deleted snapshots are kept.
const maxTrashDays = 3650

// daysOf reads a number of days: nil where none is given, -1 for what isn't one.
func daysOf(text string) *int {
	if text == "" {
		return nil
	}
	days, err := strconv.Atoi(text)
	if err != nil {
		days = -1
	}
	return &days
}

func (a *App) badOption(flag, variable, value, want string) error {
	name := flag
	if a.Getenv(variable) == value {
		name = variable
	}
	return usage("%s %q: want %s", name, value, want)
}

func isHostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// checkInForce tells whether a local cloud that runs is the one that was asked
// for: it takes its options when it starts.
func checkInForce(o cloud.StartOptions, i cloud.Info) error {
	differs := func(option, asked, inForce string) error {
		return &server.Error{
			Code: server.KindExists, Op: "start", Resource: "local cloud",
			Reason: "it runs already, with " + option + " " + inForce + " and not " + asked,
			Remedy: "stead cloud stop, then start it again",
		}
	}
	_, at, _ := strings.Cut(i.Endpoint, "://")
	switch {
	case o.Listen != "" && !sameListener(o.Listen, at):
		return differs("--listen", o.Listen, at)
	case o.Machines == "none" && i.Machines != "none", o.Machines == "auto" && i.Machines == "none":
		return differs("--machines", o.Machines, i.Machines)
	case (o.Accel == "kvm" || o.Accel == "tcg") && i.Machines != "none" && i.Machines != o.Accel:
		return differs("--accel", o.Accel, i.Machines)
	case o.Account != "" && o.Account != i.Account:
		return differs("--account-id", o.Account, i.Account)
	case o.TrashDays != nil && *o.TrashDays != i.TrashDays:
		return differs("--trash-days", strconv.Itoa(*o.TrashDays), strconv.Itoa(i.TrashDays))
	}
	return nil
}

// sameListener compares the address that was asked for with the one in force:
// port 0 is any, and a name or the unspecified address may be any host.
func sameListener(asked, inForce string) bool {
	host, port, err := net.SplitHostPort(asked)
	atHost, atPort, atErr := net.SplitHostPort(inForce)
	if err != nil || atErr != nil || port != "0" && port != atPort {
		return err != nil || atErr != nil
	}
	ip, atIP := net.ParseIP(host), net.ParseIP(atHost)
	return ip == nil || atIP == nil || ip.IsUnspecified() || ip.Equal(atIP)
}
