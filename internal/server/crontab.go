package server

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/smithy-go"
)

// codeNoPolicy is DLM's code for a policy that isn't there.
const codeNoPolicy = "ResourceNotFoundException"

// errNoDLM is the cause where a Manager was given no DLM at all.
var errNoDLM = &smithy.GenericAPIError{Code: "UnsupportedOperation", Message: "no Data Lifecycle Manager"}

// roleRemedy is what makes the role that DLM acts as.
const roleRemedy = "aws dlm create-default-role, or name another with --role ARN"

// policyError adds to an error about a policy what mends it: most often it is
// about the role.
func policyError(op, resource string, err error) error {
	err = wrap(op, resource, err)
	var api smithy.APIError
	if !errors.As(err, &api) {
		return err
	}
	text := strings.ToLower(api.ErrorMessage())
	var e *Error
	switch {
	case !errors.As(err, &e):
	case strings.Contains(text, "role"):
		e.Remedy = roleRemedy
	case api.ErrorCode() == "LimitExceededException":
		e.Remedy = "a region has 100 lifecycle policies; aws dlm get-lifecycle-policies shows them"
	}
	return err
}

// noSchedules refuses with the line of a crontab that does the same.
func noSchedules(name string, o ScheduleOptions, err error) *Error {
	e := &Error{Code: KindUnsupported, Reason: "this cloud takes no snapshots by itself (it has no Data Lifecycle Manager)", Err: err}
	if line := cronLine(name, o); line != "" {
		e.Remedy = "crontab -e, and this line: " + line
	}
	return e
}

// cronLine is the line of a crontab that does what a schedule would; "" where
// cron can't say the times.
func cronLine(name string, o ScheduleOptions) string {
	when := "0 3 * * *"
	switch {
	case o.Cron != "":
		expr, err := dlmCron(o.Cron)
		if err != nil {
			return ""
		}
		if when = crontabOf(expr); when == "" {
			return ""
		}
	case o.Every > 0:
		when = everyInCrontab(o.Every, o.At)
	}
	keep := "--keep 7"
	switch {
	case o.KeepFor > 0:
		keep = fmt.Sprintf("--keep-for %dd", o.KeepFor*daysOf[strings.ToUpper(o.KeepUnit)])
	case o.Keep > 0:
		keep = "--keep " + strconv.Itoa(o.Keep)
	}
	return when + " stead snapshot " + name + " && stead prune " + name + " " + keep + " --yes"
}

// daysOf are the days of DLM's units; of months and years the most.
var daysOf = map[string]int{"DAYS": 1, "WEEKS": 7, "MONTHS": 31, "YEARS": 366}

func everyInCrontab(hours int, at string) string {
	hour, minute := 3, 0
	if isTimeOfDay(at) {
		hour, _ = strconv.Atoi(at[:2])
		minute, _ = strconv.Atoi(at[3:])
	}
	if hours == 1 {
		return fmt.Sprintf("%d * * * *", minute)
	}
	var list []string
	for h := hour % hours; h < 24; h += hours {
		list = append(list, strconv.Itoa(h))
	}
	return fmt.Sprintf("%d %s * * *", minute, strings.Join(list, ","))
}

var timeOfDay = regexp.MustCompile(`^([01]\d|2[0-3]):[0-5]\d$`)

func isTimeOfDay(s string) bool { return timeOfDay.MatchString(s) }

var weekdays = []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}

var oneDigit = regexp.MustCompile(`\d+`)

// dlmCron makes DLM's form of a cron expression: cron(minutes hours
// day-of-month month day-of-week year), from that or from a crontab's five
// fields.
func dlmCron(expr string) (string, error) {
	inner := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(expr), "cron("), ")")
	f := strings.Fields(inner)
	bad := &Error{Code: KindUsage, Reason: fmt.Sprintf("%q is no cron expression", expr), Remedy: `--cron "0 3 * * *", or the six fields of EventBridge`}
	switch len(f) {
	case 6:
		return "cron(" + strings.Join(f, " ") + ")", nil
	case 5:
	default:
		return "", bad
	}
	day, weekday := f[2], f[4]
	switch {
	case weekday == "*":
		weekday = "?"
	case day == "*":
		day, weekday = "?", oneDigit.ReplaceAllStringFunc(weekday, func(d string) string {
			n, err := strconv.Atoi(d)
			if err != nil || n > 7 {
				return d // the cloud refuses it
			}
			return weekdays[n%7]
		})
	default:
		bad.Reason = fmt.Sprintf("%q names days of the month and of the week: a crontab takes either, the cloud's schedules can't", expr)
		return "", bad
	}
	for k, every := range map[int]string{0: "0/", 1: "0/"} {
		if step, ok := strings.CutPrefix(f[k], "*/"); ok {
			f[k] = every + step
		}
	}
	return fmt.Sprintf("cron(%s %s %s %s %s *)", f[0], f[1], day, f[3], weekday), nil
}

// crontabOf makes a crontab's five fields of DLM's form; "" where a crontab
// can't say that.
func crontabOf(expr string) string {
	f := strings.Fields(strings.TrimSuffix(strings.TrimPrefix(expr, "cron("), ")"))
	if len(f) != 6 || f[5] != "*" || strings.ContainsAny(f[2], "LW") || strings.ContainsAny(f[4], "L#") {
		return ""
	}
	for k, last := range map[int]string{0: "59", 1: "23"} {
		if first, step, ok := strings.Cut(f[k], "/"); ok && !strings.ContainsAny(first, "*-,") {
			f[k] = first + "-" + last + "/" + step
		}
	}
	weekday := oneDigit.ReplaceAllStringFunc(f[4], func(d string) string {
		n, err := strconv.Atoi(d)
		if err != nil || n < 1 || n > 7 {
			return d
		}
		return weekdays[n-1]
	})
	return strings.ReplaceAll(strings.Join([]string{f[0], f[1], f[2], f[3], weekday}, " "), "?", "*")
}
