-- On a timer in every instance, so that nothing waits for somebody to ask. Answers how many jobs moved.
forget()
return tend()
