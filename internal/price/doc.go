// Package price knows what a server costs a month, in exact decimals, from
// figures that each have a source and a date.
//
// The figures come from the table that is part of the program (table.json), and
// from newer ones that a Refresher fetched: the AWS Price List API, its public
// offer files, and EC2's own spot prices and reserved instances. A Book looks
// them up and computes Bills. What has no figure gets no row, and the totals
// that lack it say so: nothing is ever estimated.
//
// A month has 730 hours, as AWS computes it. Sizes are in GiB, which AWS bills
// as "GB".
package price
