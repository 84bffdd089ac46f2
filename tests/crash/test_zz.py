from tests.crash.test_nth_call import *
def test_a(database):
    faults = Faults(database)
    log=[]
    orig=faults._call
    def call(connection, c):
        log.append((faults.count+1, id(connection), getattr(c,'__closure__',None) and [x.cell_contents for x in c.__closure__ if isinstance(x.cell_contents,str)]))
        orig(connection,c)
    faults._call=call
    for number in range(1,400,11):
        faults.arm(number, number, "before")
        log.clear()
        s=Scenario(database)
        try: s.play()
        except Exception as e:
            print(number, repr(e)[:200]); 
            for l in log[max(0,number-4):number+12]: print(str(l)[:150])
            raise SystemExit
