-- Writes plans. ARGV: the number of this database, the number of plans, the plans. Answers what became of each.
local answers = {}
local at = 3
for number = 1, tonumber(ARGV[2]) do
    at, answers[number] = kern_plan(ARGV, at, ARGV[1])
end
return answers
