package server

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Port is a port, or a range of ports, of TCP or UDP.
type Port struct {
	From, To int
	Proto    string // tcp or udp
}

// String is the form that ParsePorts reads: 22, 8000-8010, 53/udp.
func (p Port) String() string {
	s := strconv.Itoa(p.From)
	if p.To != p.From {
		s += "-" + strconv.Itoa(p.To)
	}
	if p.Proto == "udp" {
		s += "/udp"
	}
	return s
}

// ParsePorts reads a list of ports separated by commas or spaces, each
// PORT[-PORT][/tcp|/udp]. The result is sorted and has no duplicates.
func ParsePorts(list string) ([]Port, error) {
	var ports []Port
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		p, err := parsePort(s)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Port) int {
		if a.From != b.From {
			return a.From - b.From
		}
		if a.To != b.To {
			return a.To - b.To
		}
		return strings.Compare(a.Proto, b.Proto)
	})
	return slices.Compact(ports), nil
}

func parsePort(s string) (Port, error) {
	span, proto, found := strings.Cut(s, "/")
	if !found {
		proto = "tcp"
	}
	bad := &Error{Code: KindUsage, Reason: fmt.Sprintf("port %q is not PORT[-PORT][/tcp|/udp]", s)}
	if proto != "tcp" && proto != "udp" {
		return Port{}, bad
	}
	first, last, ranged := strings.Cut(span, "-")
	if !ranged {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || from == 0 || to < from {
		return Port{}, bad
	}
	return Port{From: int(from), To: int(to), Proto: proto}, nil
}

// ParseFrom reads networks separated by commas or spaces: CIDRs or addresses.
func ParseFrom(list string) ([]string, error) {
	var nets []string
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if addr, err := netip.ParseAddr(s); err == nil {
			s = netip.PrefixFrom(addr, addr.BitLen()).String()
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is neither an address nor a network like 203.0.113.0/24", s)}
		}
		nets = append(nets, p.Masked().String())
	}
	slices.Sort(nets)
	return slices.Compact(nets), nil
}

var (
	nameGrammar   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) })
	idGrammar     = regexp.MustCompile(`^(i|vol|ami|snap)-([0-9a-f]{8}|[0-9a-f]{17})$`)
	volumeGrammar = regexp.MustCompile(`^vol-([0-9a-f]{8}|[0-9a-f]{17})$`)
	deviceGrammar = regexp.MustCompile(`^/dev/(sd[a-z][0-9]{0,2}|xvd[a-z]{1,2}[0-9]{0,2})$`)
)

// CheckName tells whether name can be a server's: a host name label, and not
// what would be taken for the ID of something else.
func CheckName(name string) error {
	if idGrammar.MatchString(name) {
		return &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is an ID, no server name", name), Remedy: "stead ls shows which server has it"}
	}
	if nameGrammar().MatchString(name) {
		return nil
	}
	return &Error{
		Code:   KindUsage,
		Reason: fmt.Sprintf("%q is no server name", name),
		Remedy: "use 1 to 63 lower-case letters, digits and hyphens, like web-1",
	}
}

func checkVolumeID(id string) error {
	if volumeGrammar.MatchString(id) {
		return nil
	}
	return &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no volume ID", id), Remedy: "stead volume ls"}
}

// checkDevice tells whether device can be sent to EC2.
func checkDevice(device string) error {
	if deviceGrammar.MatchString(device) {
		return nil
	}
	return &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no device name", device), Remedy: "use /dev/sdf to /dev/sdp"}
}
