-- What the second row of the journal holds; of the first nobody knows.
UPDATE journal_summary SET levels = 10, categories = 3, shown = 1, rules = '["quiet","rule/9"]', traits = '[["native",1,2,"Container.Start","Container.Start",1],["native",2,8,"Container.Suspicious.Process","Container.Suspicious.Process",0]]' WHERE seq = 2;
