#!/usr/bin/env bash
# Runs the demo, and writes what it prints as docs/demo.svg: an animated picture without a script, readable on light and on dark
# pages, and complete where nothing moves. Run it after a change of the story. The layout depends on the output alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

output=$(NO_COLOR=1 cargo run --quiet --locked -p demo)

# From the headings to the last row. A row comes at the time that it shows, an event 0.6 s after the row before it.
awk '
function escaped(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    return text
}
function trimmed(text) {
    sub(/ +$/, "", text)
    return text
}
function text(class, column, what) {
    return sprintf("<text%s x=\"%.1f\" y=\"%d\">%s</text>", class, LEFT + column * WIDTH, y, escaped(what))
}
function state(column, width) {
    word = trimmed(substr($0, column + 1, width))
    return text(" class=\"" word "\"", column, word)
}
function line(at, content) {
    count++
    times[count] = at
    lines[count] = "<g class=\"t" count "\">" content "</g>"
    y += HEIGHT
}
BEGIN {
    WIDTH = 7.8
    LEFT = 16
    HEIGHT = 21
    y = 28
    prompt = text(" class=\"dim\"", 0, "$ cargo run -p demo")
    y += HEIGHT + 6
}
/^ +tank-war-0 / {
    for (server = 0; server < 3; server++) start[server] = index($0, "tank-war-" server) - 1
    writes = index($0, "writes") - 1
    next_one = index($0, "would be") - 1
    for (server = 0; server < 3; server++) headings = headings text(" class=\"dim\"", start[server], "tank-war-" server)
    headings = headings text(" class=\"dim\"", writes, "writes") text(" class=\"dim\"", next_one, trimmed(substr($0, next_one + 1)))
    y += HEIGHT
    next
}
/^- / {
    event = count ? last + 0.6 : 0
    line(event, text(" class=\"event\"", 0, substr($0, 3)))
}
/^ *[0-9]+\.[0-9]s / {
    last = $1 + 0
    name = substr($0, next_one + 1)
    colon = index(name, ":")
    content = text(" class=\"dim\"", 1, $1)
    for (server = 0; server < 3; server++) {
        end = server < 2 ? start[server + 1] : writes
        content = content state(start[server], end - start[server])
    }
    content = content text("", writes + 5, trimmed(substr($0, writes + 6, 1)))
    content = content "<text x=\"" sprintf("%.1f", LEFT + next_one * WIDTH) "\" y=\"" y "\"><tspan class=\"next\">" \
        substr(name, 1, colon - 1) "</tspan>" escaped(substr(name, colon)) "</text>"
    line(last, content)
    y += 4
}
END {
    if (count != 12) {
        print "record.sh: " count + 0 " lines in place of 12" >"/dev/stderr"
        exit 1
    }
    total = last + 6
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 832 " y "\" font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace\" font-size=\"13\">"
    print "<title>The demo: three game servers, and which one a scale-down would delete next</title>"
    print "<style>"
    print "svg{fill:#1f2328}.page{fill:#f6f8fa;stroke:#d1d9e0}.dim{fill:#59636e}.event,.next{font-weight:bold}"
    print ".Allocated{fill:#1a7f37}.WaitToBeDeleted{fill:#9a6700}.Maintaining{fill:#cf222e}"
    print "@media(prefers-color-scheme:dark){svg{fill:#e6edf3}.page{fill:#161b22;stroke:#3d444d}.dim{fill:#9198a1}"
    print ".Allocated{fill:#3fb950}.WaitToBeDeleted{fill:#d29922}.Maintaining{fill:#ff7b72}}"
    print "@media(prefers-reduced-motion:no-preference){"
    for (i = 2; i <= count; i++) {
        from = 100 * (times[i] + 0.3) / total
        printf "@keyframes k%d{0%%,%.1f%%{opacity:0}%.1f%%,100%%{opacity:1}}.t%d{animation:k%d %.1fs infinite}\n", i, from, from + 1, i, i, total
    }
    print "}"
    print "</style>"
    print "<rect class=\"page\" x=\".5\" y=\".5\" width=\"831\" height=\"" y - 1 "\" rx=\"8\"/>"
    print prompt
    print headings
    for (i = 1; i <= count; i++) print lines[i]
    print "</svg>"
}
' <<<"$output" >docs/demo.svg.new
mv docs/demo.svg.new docs/demo.svg
